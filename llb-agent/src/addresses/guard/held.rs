// SPDX-License-Identifier: Apache-2.0
//! An address that llb has on a link, and the claim of another host to it. Pure:
//! time comes in as an argument.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::probes::{LiveLink, Output, ProbeSeries};
use crate::model::{AddressKey, Mac};

/// RFC 5227 sections 1.1 and 2.4 (c): a host that must not give up an address
/// defends it by at most one announcement in this time.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// During a conflict llb probes for the other host this often.
const REPROBE_INTERVAL: Duration = Duration::from_secs(5);

/// The conflict ends when the other host was silent for this long: through two
/// series of probes.
const CLAIM_LIFETIME: Duration = Duration::from_secs(12);

#[derive(Debug, Default)]
pub(super) struct Held {
    probes: Option<ProbeSeries>,
    /// Announce it as soon as it is known that no other host has it.
    unannounced: bool,
    claim: Option<Claim>,
    /// The time of the last defence.
    defended: Option<Instant>,
}

/// A host said that it has the address.
#[derive(Debug)]
struct Claim {
    mac: Mac,
    last_heard: Instant,
    next_probe: Instant,
    /// False until it is known that the MAC is not one of this host.
    is_foreign: bool,
}

impl Held {
    /// Probes for the address, then announces it if no other host has it.
    pub(super) fn recheck(&mut self, now: Instant) {
        self.probes = Some(ProbeSeries::new(now));
        self.unannounced = true;
    }

    /// Records that a host claims the address. Returns whether the reconciler
    /// should look.
    pub(super) fn hear_claim(&mut self, mac: Mac, now: Instant) -> bool {
        match &mut self.claim {
            // The first claim stays, so that a flood of MACs does not become a flood of log lines.
            Some(claim) => {
                claim.last_heard = now;
                claim.is_foreign && self.may_defend(now)
            }
            None => {
                self.claim_by(mac, now);
                true
            }
        }
    }

    /// Replaces whatever claim is known.
    pub(super) fn claim_by(&mut self, mac: Mac, now: Instant) {
        let next_probe = now + REPROBE_INTERVAL;
        self.claim = Some(Claim { mac, last_heard: now, next_probe, is_foreign: false });
    }

    /// Whether it is unknown whether the claim is foreign.
    pub(super) fn has_unjudged_claim(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| !claim.is_foreign)
    }

    /// Drops a claim by a MAC of this host. Returns the claiming MAC if the
    /// claim is foreign and was not known to be.
    pub(super) fn judge(&mut self, own_macs: &BTreeSet<Mac>) -> Option<Mac> {
        self.claim.take_if(|claim| own_macs.contains(&claim.mac));
        let claim = self.claim.as_mut().filter(|claim| !claim.is_foreign)?;
        claim.is_foreign = true;
        Some(claim.mac)
    }

    /// The other host that claims the address.
    pub(super) fn foreign_owner(&self) -> Option<Mac> {
        self.foreign_claim().map(|claim| claim.mac)
    }

    /// Whether to defend the address by an announcement now. If so, it counts
    /// as defended.
    pub(super) fn take_defence(&mut self, now: Instant) -> bool {
        let is_claimed_since =
            self.foreign_claim().is_some_and(|claim| self.defended.is_none_or(|at| claim.last_heard > at));
        let is_due = is_claimed_since && self.may_defend(now);
        if is_due {
            self.defended = Some(now);
        }
        is_due
    }

    /// Whether to announce the address now. If so, it counts as announced.
    pub(super) fn take_announcement(&mut self) -> bool {
        let is_due = self.is_announceable();
        self.unannounced &= !is_due;
        is_due
    }

    /// When something is next due; `None` if nothing is to come.
    pub(super) fn due(&self) -> Option<Instant> {
        let claim = self.claim.as_ref();
        let claim_ends = claim.map(|claim| claim.last_heard + CLAIM_LIFETIME);
        let next_probe = self.probes.map(|probes| probes.due).or_else(|| claim.map(|claim| claim.next_probe));
        claim_ends.into_iter().chain(next_probe).min()
    }

    /// Does what is due; there may be no output for it.
    pub(super) fn advance(
        &mut self,
        link: Option<&LiveLink>,
        key: &AddressKey,
        now: Instant,
    ) -> Option<Output> {
        if self.claim.take_if(|claim| claim.last_heard + CLAIM_LIFETIME <= now).is_some() {
            // Neighbours may have believed the other host.
            self.unannounced = true;
            return Some(Output::WakeReconciler);
        }
        if let Some(probes) = &mut self.probes {
            if probes.due > now {
                return None;
            }
            let probe = probes.next_probe(link, key, now);
            if probe.is_none() {
                self.probes = None;
            }
            return probe.or_else(|| self.is_announceable().then_some(Output::WakeReconciler));
        }
        if let Some(claim) = &mut self.claim
            && claim.next_probe <= now
        {
            claim.next_probe = now + REPROBE_INTERVAL;
            self.probes = Some(ProbeSeries::new(now));
        }
        None
    }

    fn foreign_claim(&self) -> Option<&Claim> {
        self.claim.as_ref().filter(|claim| claim.is_foreign)
    }

    fn is_announceable(&self) -> bool {
        self.unannounced && self.probes.is_none() && self.claim.is_none()
    }

    fn may_defend(&self, now: Instant) -> bool {
        self.defended.is_none_or(|at| now >= at + DEFEND_INTERVAL)
    }
}
