// SPDX-License-Identifier: Apache-2.0
//! Which packets a frontend takes.

use llb_common::frontend::{FrontendEntry, KNOWN_FLOWS_ONLY, OPENINGS_ONLY};

/// How a frontend takes traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Gate {
    /// All.
    #[default]
    Open,
    /// No TCP connection that is not known and does not begin now: the relay has them.
    OpeningsOnly,
    /// Known flows only: it ends.
    KnownFlowsOnly,
}

/// All flags of gates.
pub(super) const GATES: u32 = OPENINGS_ONLY | KNOWN_FLOWS_ONLY;

impl Gate {
    pub(super) fn flags(self) -> u32 {
        match self {
            Self::Open => 0,
            Self::OpeningsOnly => OPENINGS_ONLY,
            Self::KnownFlowsOnly => KNOWN_FLOWS_ONLY,
        }
    }

    pub(super) fn of(entry: &FrontendEntry) -> Self {
        match entry.flags & GATES {
            0 => Self::Open,
            OPENINGS_ONLY => Self::OpeningsOnly,
            _ => Self::KnownFlowsOnly,
        }
    }
}
