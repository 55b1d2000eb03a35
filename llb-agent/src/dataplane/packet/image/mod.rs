// SPDX-License-Identifier: Apache-2.0
//! What is in the maps of the packet plane, and what must be written into them so that a
//! frontend is served by its rule. Pure: it gives `Write`s, in the order in which packets
//! may see them, and the caller carries them out. Crash-safe by that order: after each
//! write, every frontend has a whole table, and every slot of it a backend.
//!
//! ```text
//!   rule, next hops --> backends: id, state, entry --> shares --> selection table in free chunks
//!                                      |                                |
//!                                      `---------> frontend entry <-----'   one write switches over
//! ```
//!
//! Ids outlive the agent, together with the flows that use them: after a restart, and after
//! a write that failed, the image is read back from the maps (`Restored`).

mod entries;
mod gate;
mod ids;
mod known;
mod map_image;
mod next_hop;
mod render;
mod restore;
#[cfg(test)]
mod tests;
mod upsert;
mod write;

pub(super) use gate::Gate;
pub(super) use map_image::{Limits, MapImage, Served};
pub(super) use next_hop::NextHop;
pub use render::render;
pub(super) use restore::Restored;
pub(super) use write::Write;
#[cfg(test)]
pub(super) use write::key_of;
