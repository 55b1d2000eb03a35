// SPDX-License-Identifier: Apache-2.0
//! Why the packet plane does not serve a frontend. Another plane may.

use std::io;

use crate::error_chain::ErrorChain;
use crate::model::{PacketLimit, PacketObstacle, PlacementReason};

/// The packet plane can't serve a rule.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A backend is where the plane can't send packets.
    #[error("{0}")]
    Obstacle(PacketObstacle),
    /// A limit of the maps is reached.
    #[error(transparent)]
    Full(#[from] PacketLimit),
    /// The kernel does not tell the way to the backends.
    #[error("cannot look up routes and neighbours of the backends")]
    LookUp(#[source] io::Error),
    /// The kernel does not show what the maps hold, after a write to them has failed.
    #[error("cannot read the packet plane's maps")]
    ReadMaps(#[source] io::Error),
    /// The kernel does not write a map.
    #[error("cannot write a map of the packet plane")]
    WriteMaps(#[source] io::Error),
}

impl From<Refusal> for PlacementReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Obstacle(obstacle) => Self::Obstacle(obstacle),
            Refusal::Full(limit) => Self::Full(limit),
            error => Self::KernelRefused { error: ErrorChain(&error).to_string() },
        }
    }
}
