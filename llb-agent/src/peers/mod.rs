// SPDX-License-Identifier: Apache-2.0
//! What the agent and keepalived tell each other: files in the state folder, and a signal. Which box has
//! which share is decided by keepalived; what is in the files by `ownership/`.
//!
//! ```text
//!   agent --> vrrp.conf   who is there, and in which order    SIGHUP after a change
//!         --> ready/S     a number that is added to the priority for share S
//!         --> group       who this box is, for commands
//!         --> shares      which VIPs `llb-agent share` may put on which links
//!   keepalived --> vrrp.pid
//!   people (`llb-agent drain`, `undrain`, `move`) --> orders
//! ```
//!
//! An agent that restarts finds the files as they were, and leaves them until it serves: its restart moves
//! nothing. After a reboot it serves nothing yet, so `ready/S` says so from the start.

mod files;
mod keepalived;
mod orders;

pub use files::{GroupFiles, PeersError, read_placement};
pub use keepalived::Keepalived;
pub use orders::{Identity, change_orders, read_orders, take_orders};
