// SPDX-License-Identifier: Apache-2.0
//! Why an address could not be read, added or removed.

use std::io;
use std::net::IpAddr;

use crate::model::{AddressKey, Mac, ProblemReason};

/// An address could not be read, added or removed.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The link went away, or never existed (ENODEV).
    #[error("link {link} does not exist; `ip link` lists those that do")]
    NoSuchLink {
        /// Its name.
        link: String,
    },
    /// Another host answers for the address.
    #[error(
        "{key} is taken: the host with MAC {mac} on that segment has it; \
         remove it from that host, or give the Service another address"
    )]
    Taken {
        /// Which address.
        key: AddressKey,
        /// The MAC of the other host.
        mac: Mac,
    },
    /// CAP_NET_ADMIN is missing (EPERM).
    #[error("no permission to change addresses on {link}: run as root or with CAP_NET_ADMIN")]
    NotPermitted {
        /// The link.
        link: String,
    },
    /// IPv6 is disabled on the link (EACCES).
    #[error("IPv6 is disabled on {link}: `sysctl -w net.ipv6.conf.{link}.disable_ipv6=0` enables it")]
    Ipv6Disabled {
        /// The link.
        link: String,
    },
    /// The kernel would also remove addresses that are not llb's.
    #[error(
        "cannot remove {key}: the kernel would also remove other addresses of its subnet; \
         `sysctl -w net.ipv4.conf.{}.promote_secondaries=1` keeps them", .key.link
    )]
    TakesOthers {
        /// The address, which stays.
        key: AddressKey,
    },
    /// The kernel is too old to mark addresses as llb's.
    #[error(
        "kernel {release} cannot tag addresses, only 5.18 and newer can: use the address tag \"file\" or \"auto\""
    )]
    TagUnsupported {
        /// The running kernel.
        release: String,
    },
    /// The boxes of a group tell each other's addresses from llb's by the kernel's tag.
    #[error(
        "a group needs addresses that the kernel tags, which {release} does not do: use kernel 5.18 or newer, and \
         --address-tag auto or kernel"
    )]
    GroupNeedsTag {
        /// The running kernel.
        release: String,
    },
    /// The link of routed VIPs could not be made.
    #[error(
        "cannot make link {link}, which is to have the VIPs; make it yourself: `ip link add {link} up type dummy`"
    )]
    LinkNotMade {
        /// Its name.
        link: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The link of routed VIPs could not be removed.
    #[error("cannot remove link {link}; `ip link delete {link}` does it")]
    LinkNotRemoved {
        /// Its name.
        link: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused for another reason, or did not answer.
    #[error("cannot {verb} {key}")]
    Refused {
        /// `add` or `remove`.
        verb: &'static str,
        /// Which address.
        key: AddressKey,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The file that records which addresses are llb's cannot be written.
    #[error("cannot write {path}, which records the addresses that llb adds")]
    StateFile {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel could not be asked.
    #[error("cannot read links and addresses from the kernel")]
    Read(#[source] io::Error),
}

impl AddressError {
    /// The kernel refused to `verb` an address. Names the way out where there is
    /// a known one.
    pub(super) fn refused(verb: &'static str, key: &AddressKey, source: io::Error) -> Self {
        let link = key.link.clone();
        match (source.raw_os_error(), key.address) {
            (Some(libc::EPERM), _) => Self::NotPermitted { link },
            (Some(libc::ENODEV), _) => Self::NoSuchLink { link },
            (Some(libc::EACCES), IpAddr::V6(_)) => Self::Ipv6Disabled { link },
            _ => Self::Refused { verb, key: key.clone(), source },
        }
    }

    /// What kind of problem it is.
    pub fn reason(&self) -> ProblemReason {
        match self {
            Self::Taken { .. } => ProblemReason::VipConflict,
            _ => ProblemReason::ActionFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_kernel_says_what_to_do() {
        for (address, code, expected) in [
            (
                "192.0.2.5",
                libc::EPERM,
                "no permission to change addresses on eth0: run as root or with CAP_NET_ADMIN",
            ),
            ("192.0.2.5", libc::ENODEV, "link eth0 does not exist; `ip link` lists those that do"),
            (
                "2001:db8::5",
                libc::EACCES,
                "IPv6 is disabled on eth0: `sysctl -w net.ipv6.conf.eth0.disable_ipv6=0` enables it",
            ),
            ("192.0.2.5", libc::ENOBUFS, "cannot add 192.0.2.5 on eth0"),
        ] {
            let key = AddressKey { link: "eth0".to_owned(), address: address.parse().unwrap() };
            let error = AddressError::refused("add", &key, io::Error::from_raw_os_error(code));
            assert_eq!(error.to_string(), expected);
        }
    }
}
