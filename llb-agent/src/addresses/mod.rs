// SPDX-License-Identifier: Apache-2.0
//! The seam to the addresses on the link devices.
//!
//! Invariant: an address that llb did not add is never changed or removed.
//!
//! ```text
//!   reconciler --> AddressTable --+-- NetlinkAddresses     the kernel
//!                                 |     +- StateFile       which addresses are llb's, where the kernel can't say
//!                                 |     +- changes         what others did to links and addresses, and that it is said
//!                                 |     +- guard           is there another owner? probes, claims, announcements
//!                                 |     `- watch           wakes the reconciler when links or addresses change
//!                                 `-- FakeAddresses        links in memory
//! ```

mod announce;
mod changes;
pub mod fake;
mod frame;
mod guard;
mod known;
mod message;
mod netlink;
mod state_file;
mod tag;
mod watch;

use std::collections::BTreeMap;
use std::io;

pub use netlink::NetlinkAddresses;

use crate::model::{AddressKey, Link, Mac, ProblemReason};

/// The names of all links of this network namespace, for messages.
pub fn link_names() -> Vec<String> {
    // /sys/class/net may be mounted for another namespace; this file never is.
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// The link devices and their addresses.
#[expect(async_fn_in_trait, reason = "called from one task of this crate, never spawned")]
pub trait AddressTable {
    /// The link devices in the order of the command line, with all their
    /// addresses; those that llb added are marked. A missing link is absent.
    ///
    /// # Errors
    /// The kernel did not answer.
    async fn observe(&mut self) -> Result<Vec<Link>, AddressError>;

    /// [`AddressTable::add`] will be called for these, with their prefix lengths,
    /// or for the first `most` that may be added: what can be done once for all
    /// of them is done. Nothing depends on it but time.
    async fn prepare(&mut self, _coming: &[(&AddressKey, u8)], _most: usize) {}

    /// Puts the VIP on the link, marked as llb's own, and announces it, once it
    /// is known that no other host has it; never waits for that. Idempotent,
    /// and cheap to ask again. Links are known from [`AddressTable::observe`].
    ///
    /// # Errors
    /// The address is not there now; [`AddressError::Taken`] if another host has it.
    async fn add(&mut self, key: &AddressKey, prefix_length: u8) -> Result<Addition, AddressError>;

    /// Takes the VIP off the link; idempotent; only what llb added.
    ///
    /// # Errors
    /// The address may still be there.
    async fn remove(&mut self, key: &AddressKey, prefix_length: u8) -> Result<(), AddressError>;

    /// VIPs that are on their links, and that another host claims too: its MAC.
    fn conflicts(&self) -> BTreeMap<AddressKey, Mac>;
}

/// What came of [`AddressTable::add`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// The address is on the link.
    Done,
    /// It is being probed for; the reconciler is woken up when that is over.
    Pending,
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
