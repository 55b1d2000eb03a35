// SPDX-License-Identifier: Apache-2.0
//! How llb remembers which addresses on a link are its own. Not where: see
//! `message` for the kernel's tag and `state_file` for the file.

use super::error::AddressError;
use crate::config::AddressTag;

/// IFA_PROTO of an address that llb added: the letter l. 0 to 3 are the
/// kernel's, the rest is free for user space (uapi/linux/if_addr.h).
pub(super) const ADDRESS_PROTOCOL: u8 = 0x6c;

/// The first kernel that keeps IFA_PROTO; an older one ignores it.
const FIRST_KERNEL_WITH_TAG: (u32, u32) = (5, 18);

/// Whether the kernel `release` (as `uname -r`) is to keep the mark on the
/// address itself; else it is in `addresses.json` of the state folder.
///
/// # Errors
/// It is asked to and can't.
pub(super) fn in_kernel(tag: AddressTag, release: &str) -> Result<bool, AddressError> {
    match (tag, kernel_keeps_tag(release)) {
        (AddressTag::Kernel, false) => Err(AddressError::TagUnsupported { release: release.to_owned() }),
        (AddressTag::Kernel, true) => Ok(true),
        (AddressTag::Auto, able) => Ok(able),
        (AddressTag::File, _) => Ok(false),
    }
}

/// A release that can't be read counts as old: the file always works.
fn kernel_keeps_tag(release: &str) -> bool {
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
    fn the_kernel_keeps_the_tag_from_5_18_on() {
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
    fn an_old_kernel_is_told_with_the_way_out() {
        let error = in_kernel(AddressTag::Kernel, "5.10.0").unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernel 5.10.0 cannot tag addresses, only 5.18 and newer can: use the address tag \"file\" or \"auto\""
        );
    }
}
