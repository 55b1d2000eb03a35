// SPDX-License-Identifier: Apache-2.0
//! Which packets a frontend takes.

use llb_common::frontend::{FrontendEntry, KNOWN_FLOWS_ONLY, OPENINGS_ONLY};

/// Which packets a frontend takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Gate {
    /// All.
    #[default]
    Open,
    /// Packets of known flows, and those that open a TCP connection. All other packets are
    /// left to the relay, which still has connections of this frontend.
    OpeningsOnly,
    /// Packets of known flows only: the frontend is draining.
    KnownFlowsOnly,
}

impl Gate {
    /// The bits of [`FrontendEntry::flags`] that are a gate.
    pub(super) const FLAGS: u32 = OPENINGS_ONLY | KNOWN_FLOWS_ONLY;

    /// This gate as flags.
    pub(super) const fn flags(self) -> u32 {
        match self {
            Self::Open => 0,
            Self::OpeningsOnly => OPENINGS_ONLY,
            Self::KnownFlowsOnly => KNOWN_FLOWS_ONLY,
        }
    }

    /// The gate of an entry.
    pub(super) const fn of(entry: &FrontendEntry) -> Self {
        match entry.flags & Self::FLAGS {
            0 => Self::Open,
            OPENINGS_ONLY => Self::OpeningsOnly,
            _ => Self::KnownFlowsOnly,
        }
    }
}
