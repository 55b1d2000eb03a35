// SPDX-License-Identifier: Apache-2.0
//! The kernels that are known to lose or repeat data in socket maps. Only a
//! table: `self_test.rs` tries what the running kernel really does. Pure.

/// The releases in which the stable kernel lines got the fixes for bytes that are
/// lost or repeated when a send buffer is full ("data lost during EAGAIN
/// retries"). Lines that are not listed have them from [`FIXED_SINCE`] on.
const FIXED_IN: [Version; 3] = [(6, 1, 142), (6, 6, 94), (6, 12, 35)];

/// The first kernel that was released with these fixes.
const FIXED_SINCE: Version = (6, 16, 0);

type Version = (u32, u32, u32);

/// How a kernel names itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    /// `uname -r`.
    pub(super) release: &'a str,
    /// `uname -v`.
    pub(super) version: &'a str,
    /// `/proc/version_signature`, which only Ubuntu's kernels have; else empty.
    pub(super) signature: &'a str,
}

/// Why the kernel with these names must not be used.
pub(super) fn known_trouble(names: Names<'_>) -> Option<String> {
    let Some(version) = version_of(names) else {
        return Some(format!("cannot read the kernel's version from {:?}", names.release));
    };
    let is_fixed = version >= FIXED_SINCE
        || FIXED_IN
            .iter()
            .any(|&(major, minor, patch)| (major, minor) == (version.0, version.1) && version.2 >= patch);
    let fixed = FIXED_IN.map(|(major, minor, patch)| format!("{major}.{minor}.{patch}")).join(", ");
    (!is_fixed).then(|| {
        let (major, minor, patch) = version;
        format!(
            "kernel {} ({major}.{minor}.{patch}) loses bytes in socket maps; fixed in {fixed} and {}.{}",
            names.release, FIXED_SINCE.0, FIXED_SINCE.1
        )
    })
}

/// The version of the stable kernel that it is made from. Distributions put a number of their own in place of
/// the third one in the release's name, and the real version elsewhere: `6.1.0-56-amd64` is `... Debian 6.1.192-1 (...)`,
/// and `6.8.0-45-generic` is `Ubuntu 6.8.0-45.45-generic 6.8.12`.
fn version_of(Names { release, version, signature }: Names<'_>) -> Option<Version> {
    let named = numbers(release)?;
    let debian = version.split_once("Debian ").map(|(_, rest)| rest);
    let ubuntu = signature.split_whitespace().next_back();
    let real = debian.or(ubuntu).and_then(numbers);
    Some(real.filter(|real| (real.0, real.1) == (named.0, named.1)).unwrap_or(named))
}

/// The numbers at the beginning of a version; the third may be left out.
fn numbers(text: &str) -> Option<Version> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    Some((next()?, next()?, next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::{Names, known_trouble, version_of};

    fn of_release(release: &str) -> Names<'_> {
        Names { release, version: "#1 SMP PREEMPT_DYNAMIC", signature: "" }
    }

    #[test]
    fn the_real_version_of_a_distributions_kernel_is_read() {
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-18)";
        let ubuntu = "Ubuntu 6.8.0-45.45-generic 6.8.12\n";
        for (release, version, signature, real) in [
            ("6.1.0-56-amd64", debian, "", (6, 1, 192)),
            ("6.12.117+deb12-amd64", "#1 SMP Debian 6.12.117-1~bpo12+1 (2026-10-20)", "", (6, 12, 117)),
            ("6.8.0-45-generic", "#45-Ubuntu SMP PREEMPT_DYNAMIC Fri Aug 30", ubuntu, (6, 8, 12)),
            ("6.18.44", "#1 SMP PREEMPT_DYNAMIC @0", "", (6, 18, 44)),
            // An own kernel on such a system is what it says.
            ("6.18.44", debian, "", (6, 18, 44)),
            ("6.1.0-56-amd64", "#1 SMP Debian unknown", "", (6, 1, 0)),
        ] {
            assert_eq!(version_of(Names { release, version, signature }), Some(real), "{release} {version}");
        }
        assert_eq!(known_trouble(Names { release: "6.1.0-56-amd64", version: debian, signature: "" }), None);
        let old = Names {
            release: "6.1.0-13-amd64",
            version: "#1 SMP Debian 6.1.55-1 (2023-09-29)",
            signature: "",
        };
        let trouble = known_trouble(old).unwrap();
        assert!(trouble.starts_with("kernel 6.1.0-13-amd64 (6.1.55) loses bytes"), "{trouble}");
    }

    #[test]
    fn kernels_without_the_fixes_are_refused() {
        for fixed in ["6.18.44", "6.16.0-rc1", "6.12.35", "6.12.74+deb13-amd64", "6.1.142", "7.0.0", "6.18"] {
            assert_eq!(known_trouble(of_release(fixed)), None, "{fixed}");
        }
        for broken in
            ["6.12.34", "6.1.0-13-amd64", "5.15.0-91-generic", "6.15.3", "5.10.200", "6.2.0", "strange"]
        {
            assert!(known_trouble(of_release(broken)).is_some(), "{broken}");
        }
    }
}
