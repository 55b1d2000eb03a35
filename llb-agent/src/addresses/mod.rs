// SPDX-License-Identifier: Apache-2.0
//! The addresses on the link devices.
//!
//! Invariant: an address that llb did not add is never changed or removed.
//!
//! ```text
//!   reconciler --> AddressTable --+-- NetlinkAddresses     the kernel
//!                                 |     +- StateFile       which addresses are llb's, if the kernel cannot mark them
//!                                 |     +- changes         what others changed on links and addresses
//!                                 |     +- host            what the machine itself needs, so that no Service gets it
//!                                 |     +- guard           probes for other owners, notices their claims, announces VIPs
//!                                 |     `- watch           wakes the reconciler when links or addresses change
//!                                 `-- FakeAddresses        links in memory
//! ```

mod announce;
mod changes;
mod error;
pub mod fake;
mod frame;
mod guard;
mod host;
mod link_names;
mod message;
mod netlink;
mod reading;
mod state_file;
mod sysctl;
mod table;
mod tag;
mod watch;

pub use self::error::AddressError;
pub use self::link_names::link_names;
pub use self::netlink::NetlinkAddresses;
pub use self::table::{Addition, AddressTable};
