// SPDX-License-Identifier: Apache-2.0
//! Decides whether the kernel or the state file records which addresses are
//! llb's. `message` writes and reads the kernel's tag, `state_file` the file.

use super::error::AddressError;
use crate::config::AddressTag;

/// The IFA_PROTO value of the addresses that llb adds: the letter l. The kernel
/// uses 0 to 3; other values are free for user space (uapi/linux/if_addr.h).
pub(super) const ADDRESS_PROTOCOL: u8 = 0x6c;

/// The first kernel that stores IFA_PROTO. Older ones ignore it.
const FIRST_KERNEL_WITH_TAG: (u32, u32) = (5, 18);

/// Whether the kernel tags the addresses that llb adds. Otherwise they are
/// recorded in `addresses.json` in the state folder. `release` is as `uname -r`
/// prints it.
///
/// # Errors
/// The kernel must tag them, but is too old.
pub(super) fn in_kernel(tag: AddressTag, release: &str) -> Result<bool, AddressError> {
    match (tag, kernel_stores_tag(release)) {
        (AddressTag::Kernel, false) => Err(AddressError::TagUnsupported { release: release.to_owned() }),
        (AddressTag::Kernel, true) => Ok(true),
        (AddressTag::Auto, able) => Ok(able),
        (AddressTag::File, _) => Ok(false),
    }
}

/// False if the release can't be parsed: then the state file is used, which works on every kernel.
fn kernel_stores_tag(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= FIRST_KERNEL_WITH_TAG,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_stores_the_tag_since_5_18() {
        for (release, expected) in [
            ("5.18.0", true),
            ("6.1.0-13-amd64", true),
            ("10.0-rc1", true),
            ("5.17.15", false),
            ("4.18.0-553.el8.x86_64", false),
            ("", false),
            ("unknown", false),
        ] {
            assert_eq!(in_kernel(AddressTag::Auto, release).unwrap(), expected, "{release}");
            assert!(!in_kernel(AddressTag::File, release).unwrap(), "{release}");
            assert_eq!(in_kernel(AddressTag::Kernel, release).is_ok(), expected, "{release}");
        }
    }

    #[test]
    fn the_error_about_an_old_kernel_says_what_to_do() {
        let error = in_kernel(AddressTag::Kernel, "5.10.0").unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel 5.10.0 cannot tag addresses, only 5.18 and newer can: use the address tag \"file\" or \"auto\""
        );
    }
}
