// SPDX-License-Identifier: Apache-2.0
//! Why an address could not be read, added or removed.

use std::io;

use crate::model::{AddressKey, Mac, ProblemReason};

/// An address could not be read, added or removed.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The link went away, or never was.
    #[error("link {link} does not exist; `ip link` lists those that do")]
    NoSuchLink {
        /// Its name.
        link: String,
    },
    /// Another host answers for the address.
    #[error(
        "{key} is taken: the host {mac} on that segment has it; take it from that host, or give the Service another one"
    )]
    Taken {
        /// Which address.
        key: AddressKey,
        /// The other host.
        mac: Mac,
    },
    /// Missing rights.
    #[error("no permission to change addresses on {link}: run as root or with CAP_NET_ADMIN")]
    NotPermitted {
        /// The link.
        link: String,
    },
    /// IPv6 is switched off on the link.
    #[error("IPv6 is disabled on {link}: `sysctl -w net.ipv6.conf.{link}.disable_ipv6=0` enables it")]
    Ipv6Disabled {
        /// The link.
        link: String,
    },
    /// Removing an IPv4 address that others of its subnet hang on.
    #[error(
        "cannot remove {key}: the kernel would remove others of its subnet with it; \
         `sysctl -w net.ipv4.conf.{}.promote_secondaries=1` lets them stay", .key.link
    )]
    TakesOthers {
        /// The address that stays.
        key: AddressKey,
    },
    /// The kernel is too old to remember which addresses are llb's.
    #[error(
        "kernel {release} cannot tag addresses, 5.18 and newer can: use the address tag \"file\" or \"auto\""
    )]
    TagUnsupported {
        /// The running kernel.
        release: String,
    },
    /// The kernel refused.
    #[error("cannot {verb} {key}")]
    Refused {
        /// `add` or `remove`.
        verb: &'static str,
        /// Which address.
        key: AddressKey,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The state file that remembers which addresses are llb's.
    #[error("cannot write {path}, so an added address could not be told from a foreign one later")]
    StateFile {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading from the kernel failed.
    #[error("cannot read links and addresses from the kernel")]
    Read(#[source] io::Error),
}

impl AddressError {
    /// What kind of problem it is.
    pub fn reason(&self) -> ProblemReason {
        match self {
            Self::Taken { .. } => ProblemReason::VipConflict,
            _ => ProblemReason::ActionFailed,
        }
    }
}
