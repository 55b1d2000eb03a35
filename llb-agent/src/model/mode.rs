// SPDX-License-Identifier: Apache-2.0
//! The forwarding mode of the packet plane.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the packet plane forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Addresses and ports are rewritten in both directions: DNAT and SNAT.
    #[default]
    Nat,
    /// Direct server return: packets are sent unchanged to a Node, which answers the
    /// client directly.
    Dsr,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
        })
    }
}
