// SPDX-License-Identifier: Apache-2.0
//! Which box of a group has which VIPs. Pure: no I/O, no clock. keepalived elects the owner of each
//! share; this room says what it needs for that, and what follows from what it did.
//!
//! ```text
//!   names of the members --ranks.rs--> a rank for each share --configuration.rs, priority.rs--> text for keepalived
//!   orders, what is served --readiness.rs--> numbers that are added to the priorities, one after the other
//!   keepalived owns a share --> its marker is on `lo` --marker.rs--> the shares that are this box's
//!   overview.rs: what is said about them    placement.rs: markers, and the VIPs of each share --> which addresses to add and to remove
//! ```
//!
//! Invariant: ownership does not depend on the list of members. It gives priorities, and so the balance;
//! boxes with different lists still have one owner for each share.

mod configuration;
mod marker;
mod overview;
mod placement;
mod priority;
mod ranks;
mod readiness;

pub use configuration::{GroupSetup, configuration};
pub use marker::{LOOPBACK, holding, is_marker, marker};
pub use overview::{Group, News, Overview, Readiness, ShareOverview, Standing};
pub use placement::{Correction, Placement, ShareVips, corrections, placement};
pub use priority::{READY_IN_FULL, READY_LAST, READY_NOT};
pub use ranks::{MAX_MEMBERS, Ranks};
pub use readiness::{Condition, Fitness, Numbers, Orders, PACE, Step, at_start, next_step, wanted};
