// SPDX-License-Identifier: Apache-2.0
//! The kernels that are known to lose or repeat data in socket maps. Only a
//! table: `self_test.rs` tries what the running kernel really does.

/// The releases in which the stable kernel lines got the fixes for bytes that are
/// lost or repeated when a send buffer is full ("data lost during EAGAIN
/// retries"). Lines that are not listed have them from [`FIXED_SINCE`] on.
const FIXED_IN: [Version; 3] = [(6, 1, 142), (6, 6, 94), (6, 12, 35)];

/// The first kernel that was released with these fixes.
const FIXED_SINCE: Version = (6, 16, 0);

type Version = (u32, u32, u32);

/// Why the kernel with this release name (`uname -r`) must not be used.
pub(super) fn known_trouble(release: &str) -> Option<String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    let (Some(major), Some(minor)) = (next(), next()) else {
        return Some(format!("cannot read the kernel's version from {release:?}"));
    };
    let version = (major, minor, next().unwrap_or(0));
    let is_fixed = version >= FIXED_SINCE
        || FIXED_IN
            .iter()
            .any(|&(major, minor, patch)| (major, minor) == (version.0, version.1) && version.2 >= patch);
    let fixed = FIXED_IN.map(|(major, minor, patch)| format!("{major}.{minor}.{patch}")).join(", ");
    (!is_fixed).then(|| {
        format!(
            "kernel {release} loses bytes in socket maps; fixed in {fixed} and {}.{}",
            FIXED_SINCE.0, FIXED_SINCE.1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::known_trouble;

    #[test]
    fn kernels_without_the_fixes_are_refused() {
        for fixed in ["6.18.44", "6.16.0-rc1", "6.12.35", "6.12.74+deb13-amd64", "6.1.142", "7.0.0", "6.18"] {
            assert_eq!(known_trouble(fixed), None, "{fixed}");
        }
        for broken in
            ["6.12.34", "6.1.0-13-amd64", "5.15.0-91-generic", "6.15.3", "5.10.200", "6.2.0", "strange"]
        {
            assert!(known_trouble(broken).is_some(), "{broken}");
        }
    }
}
