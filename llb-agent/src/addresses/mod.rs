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
mod error;
pub mod fake;
mod frame;
mod guard;
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
