// SPDX-License-Identifier: Apache-2.0
//! What a plane reports about a backend.

use std::fmt;

use serde::Serialize;

use super::forwarding::Backend;

/// A backend as a plane has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendStatus {
    /// The backend.
    pub backend: Backend,
    /// Which traffic it gets.
    pub state: BackendState,
    /// How many flows or connections it has. `None`: the plane does not count them by backend.
    pub flows: Option<u64>,
}

/// Which traffic a backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// New flows and its old ones.
    Active,
    /// Only packets of flows that it has already.
    Draining,
    /// No new flows yet: a Node of which it is not known whether it takes packets to the VIP.
    Waiting,
    /// None: there is no way to it now. Its connections wait for it.
    Unreachable,
    /// None: the rule has it no more.
    Removed,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Waiting => "waiting",
            Self::Unreachable => "unreachable",
            Self::Removed => "removed",
        })
    }
}
