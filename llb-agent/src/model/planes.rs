// SPDX-License-Identifier: Apache-2.0
//! What there is to say about the planes and the choice between them.

use std::fmt;

use serde::Serialize;

use super::Backend;

/// The planes of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanesState {
    /// Links with a program of the packet plane.
    pub links: Vec<LinkPlane>,
    /// Why there is no packet plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_packet_plane: Option<String>,
}

/// A place at a link where a program gets frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// In the driver, before the kernel makes its own copy of a frame.
    Xdp,
    /// At ingress, before routing.
    Tc,
}

impl Hook {
    /// All hooks, the fastest first.
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tc];
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        })
    }
}

/// How a link is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkPlane {
    /// Its name.
    pub link: String,
    /// Where its program is.
    pub hook: Hook,
    /// Why there.
    pub why: String,
}

/// A backend as a plane has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendStatus {
    /// Which.
    pub backend: Backend,
    /// What it gets.
    pub state: BackendState,
    /// Flows or connections that it has; absent: not known by backend.
    pub flows: Option<u64>,
}

/// What a backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// New flows.
    Active,
    /// Only what belongs to flows that it has.
    Draining,
    /// Nothing: no answer to ARP or neighbour discovery.
    Unreachable,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Unreachable => "unreachable",
        })
    }
}
