// SPDX-License-Identifier: Apache-2.0
//! Which kernels are known to lose, repeat or misuse data in socket maps: a
//! table, and nothing else. What a kernel really does is asked by `self_test.rs`.

/// Fixes without which bytes are lost or come twice when a send buffer is full
/// ("data lost during EAGAIN retries"), by the release in which each line of
/// kernels got them. Lines that are not listed have them if they are newer
/// than [`FIXED_SINCE`].
const FIXED_IN: [Version; 3] = [(6, 1, 142), (6, 6, 94), (6, 12, 35)];

/// The first line that was released with these fixes.
const FIXED_SINCE: Version = (6, 16, 0);

type Version = (u32, u32, u32);

/// Why this kernel is not to be used, by its name (`uname -r`).
pub(super) fn known_trouble(release: &str) -> Option<String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    let (Some(major), Some(minor)) = (next(), next()) else {
        return Some(format!("the kernel's version can't be read from {release:?}"));
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
    fn kernels_with_the_fixes_are_told_from_those_without() {
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
