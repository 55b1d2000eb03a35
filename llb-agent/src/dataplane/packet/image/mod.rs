// SPDX-License-Identifier: Apache-2.0
//! What is in the maps of the packet plane, and what must be written into them
//! so that a frontend is served by its rule. Pure: it gives [`Write`]s, in the
//! order in which they may be seen by packets, and somebody else carries them
//! out.
//!
//! ```text
//!   rule, next hops --> backends: id, state, entry --> shares --> Maglev table in free chunks
//!                                      |                                |
//!                                      `---------> frontend entry <-----'   one write switches over
//! ```
//!
//! Ids outlive the agent with the flows that know them: after a restart the
//! image is read back from the maps ([`Restored`]).

mod gate;
mod ids;
mod known;
mod map_image;
mod next_hop;
mod restore;
#[cfg(test)]
mod tests;
mod upsert;
mod write;

pub(super) use gate::Gate;
pub(super) use ids::NoRoom;
pub(super) use map_image::MapImage;
pub(super) use next_hop::NextHop;
pub(super) use restore::Restored;
pub(super) use write::Write;
