// SPDX-License-Identifier: Apache-2.0
//! An address that llb wants to add: does another host have it? Pure: time comes
//! in as an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::heard::Heard;
use super::probes::ProbeSeries;
use crate::model::Mac;

/// How long the result of a series of probes counts. llb's own address counts
/// as free for as long after it was lost.
const RESULT_LIFETIME: Duration = Duration::from_secs(5);

/// What is known about the owner of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::addresses) enum ProbeResult {
    /// The probes are under way.
    Pending,
    /// No other host has it.
    Free,
    /// The host with this MAC has it.
    Taken(Mac),
}

#[derive(Debug)]
pub(super) enum Wanted {
    Probing(ProbeSeries),
    /// The result is known since `at`; without an owner the address is free.
    Known {
        at: Instant,
        owner: Option<Mac>,
    },
}

impl Wanted {
    /// What is known now.
    pub(super) fn result(&self) -> ProbeResult {
        match self {
            Self::Probing(_) => ProbeResult::Pending,
            Self::Known { owner: None, .. } => ProbeResult::Free,
            Self::Known { owner: Some(mac), .. } => ProbeResult::Taken(*mac),
        }
    }

    /// When the next probe is due, or the result expires.
    pub(super) fn due(&self) -> Instant {
        match self {
            Self::Probing(probes) => probes.due,
            Self::Known { at, .. } => *at + RESULT_LIFETIME,
        }
    }

    /// Whether the result is too old to count.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        matches!(self, Self::Known { .. }) && self.due() <= now
    }

    /// Takes in what a host said about the address; `own` is the MAC that this
    /// host probes with. True if the address is taken by that.
    pub(super) fn hear(&mut self, heard: Heard, own: Mac, now: Instant) -> bool {
        let is_taken = match self {
            // If two hosts probe at the same time, the one with the higher MAC gives way.
            Self::Probing(_) => heard.claims || heard.mac < own,
            Self::Known { owner, .. } => heard.claims && owner.is_none(),
        };
        if is_taken {
            *self = Self::Known { at: now, owner: Some(heard.mac) };
        }
        is_taken
    }
}
