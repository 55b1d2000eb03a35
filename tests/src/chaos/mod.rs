// SPDX-License-Identifier: Apache-2.0
//! Random events of a network, and clients that say what became of their connections. The same events hit
//! connections through llb and connections by plain routing, which are the yardstick: llb may lose none of a kind
//! that plain routing keeps. How an event is carried out is the lab's.
//!
//! A green run does not prove that llb survives real networks: frames are lost and doubled, but never delayed or
//! reordered, and a bridge learns a MAC address that has moved at once.

mod conversation;
mod event;
mod questions;
mod schedule;
mod tally;

pub use conversation::{Conversations, Group};
pub use event::{Event, Part};
pub use questions::{Answers, Questions};
pub use schedule::{INTERVAL, Schedule, Step};
pub use tally::{Loss, Tally};
