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
//!                                 |     +- watch           wakes the reconciler when links or addresses change
//!                                 |     `- AgentLocks      keeps other agents off the links
//!                                 `-- FakeAddresses        links in memory
//!   doctor     --> survey                                  the same questions, for a process that serves nothing
//! ```

mod agent_lock;
mod announce;
mod changes;
mod error;
pub mod fake;
mod frame;
mod guard;
mod host;
mod link_devices;
mod link_names;
mod lock_error;
mod lock_holder;
mod message;
mod netlink;
mod reading;
mod state_file;
mod survey;
mod sysctl;
mod table;
mod tag;
mod watch;

pub use self::agent_lock::AgentLocks;
pub use self::error::AddressError;
pub use self::link_names::link_names;
pub use self::lock_error::AgentLockError;
pub use self::lock_holder::Holder;
pub(crate) use self::lock_holder::holder;
pub use self::netlink::NetlinkAddresses;
pub(crate) use self::survey::{Belief, is_believed, owners, survey};
pub use self::table::{Addition, AddressTable};
