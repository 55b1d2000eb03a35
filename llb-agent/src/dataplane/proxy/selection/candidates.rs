// SPDX-License-Identifier: Apache-2.0
//! The backends of one rule, what is known of each, and the two ways to choose
//! among them: least connections and Maglev. Pure: time and hash are arguments.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use llb_common::hash::mix;
use llb_common::maglev::{Contender, NOBODY, fill, slot_of, slots_for};
use tokio::time::Instant;

use super::super::traffic::BackendTraffic;
use crate::model::{Backend, BackendFailure, Balance, FailureReason, Rule, Weight};

/// How long a backend that failed is avoided while another one is left. Then one
/// connection tries it again, and the others avoid it while that one waits, so a
/// dead backend costs one connection the connect time-out. Each failure doubles
/// the time, up to [`LONGEST_FAILURE_MEMORY`].
pub(in super::super) const FAILURE_MEMORY: Duration = Duration::from_secs(5);
/// Longer would keep traffic away from a node that has come back.
const LONGEST_FAILURE_MEMORY: Duration = Duration::from_secs(60);

/// What a choice depends on, besides the rule and what is known of the backends.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Criteria<'a> {
    pub(in super::super) client: SocketAddr,
    /// The client's last backend: chosen if it is there and not avoided.
    pub(in super::super) preferred: Option<IpAddr>,
    /// Backends that must not be chosen.
    pub(in super::super) tried: &'a [Backend],
}

/// The backends of the current rule.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// The rule that `all` and `slots` were made for.
    rule: Option<Arc<Rule>>,
    all: Vec<Candidate>,
    /// Maglev table of positions in `all`; empty unless the rule wants Maglev.
    slots: Vec<u16>,
    /// Choices by load so far.
    round: u64,
}

/// One backend, and what is known of it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) backend: Backend,
    weight: Weight,
    pub(super) shared: Arc<Shared>,
    /// Failures in a row; an answer ends the row.
    failures: u32,
    /// Absent without failures.
    avoided_until: Option<Instant>,
    /// One connection tries it now. Its failure counts, not those of connections
    /// that began before.
    is_probed: bool,
    /// Absent unless it failed and has not answered since.
    pub(super) failure: Option<BackendFailure>,
}

/// What is known of a backend without the lock.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) traffic: Arc<BackendTraffic>,
    /// Open connections. Not `traffic.active`, which several backends may share.
    pub(super) open: AtomicU64,
    /// It failed, and has not answered since.
    pub(super) is_suspect: AtomicBool,
}

impl Candidates {
    /// Takes over `rule`. What is known of backends that stay is kept.
    pub(super) fn follow(&mut self, rule: &Arc<Rule>, traffic: impl Fn(Backend) -> Arc<BackendTraffic>) {
        if self.rule.as_ref().is_some_and(|known| Arc::ptr_eq(known, rule)) {
            return;
        }
        let mut old = std::mem::take(&mut self.all);
        // Slots of a Maglev table have 16 bits; no Service port has that many Pods.
        for (&backend, &weight) in rule.backends.iter().take(usize::from(NOBODY)) {
            let known = old.iter().position(|candidate| candidate.backend == backend);
            let known = known.map(|position| old.swap_remove(position));
            let candidate = known.unwrap_or_else(|| Candidate::new(backend, traffic(backend)));
            self.all.push(Candidate { weight, ..candidate });
        }
        self.slots.clear();
        if rule.terms.balance == Some(Balance::Maglev) {
            let names = self.all.iter().map(|candidate| candidate.backend.to_string());
            let weights = self.all.iter().map(|candidate| candidate.weight.get());
            let mut contenders: Vec<Contender> = (0..)
                .zip(names.zip(weights))
                .map(|(id, (name, weight))| Contender::new(id, name.as_bytes(), weight))
                .collect();
            self.slots.resize(slots_for(contenders.len()), NOBODY);
            fill(&mut self.slots, &mut contenders);
        }
        self.rule = Some(Arc::clone(rule));
    }

    /// Chooses by `rule`, which must be the one that is followed. A backend that
    /// is avoided is chosen only if no other is left; then, or when its time is
    /// over, this choice probes it. `None`: all were tried.
    pub(super) fn choose(
        &mut self,
        rule: &Rule,
        criteria: Criteria<'_>,
        hash: u64,
        now: Instant,
    ) -> Option<&Candidate> {
        let untried = |candidate: &Candidate| !criteria.tried.contains(&candidate.backend);
        let good = |candidate: &Candidate| untried(candidate) && !candidate.is_avoided(now);
        let position = self
            .choose_among(rule, criteria, hash, good)
            .or_else(|| self.choose_among(rule, criteria, hash, untried))?;
        let chosen = &mut self.all[position];
        if chosen.avoided_until.is_some_and(|until| until <= now) {
            chosen.avoided_until = Some(now + failure_memory(chosen.failures));
            chosen.is_probed = true;
        }
        Some(chosen)
    }

    pub(super) fn get_mut(&mut self, backend: Backend) -> Option<&mut Candidate> {
        self.all.iter_mut().find(|candidate| candidate.backend == backend)
    }

    /// Those that failed and have not answered since.
    pub(super) fn failing(&self) -> impl Iterator<Item = (Backend, BackendFailure)> {
        self.all.iter().filter_map(|candidate| Some((candidate.backend, candidate.failure?)))
    }

    /// The position of one of those that `may` be chosen.
    fn choose_among(
        &mut self,
        rule: &Rule,
        criteria: Criteria<'_>,
        hash: u64,
        may: impl Fn(&Candidate) -> bool,
    ) -> Option<usize> {
        if !self.all.iter().any(&may) {
            return None;
        }
        let is_preferred = |candidate: &Candidate| {
            Some(candidate.backend.address.ip()) == criteria.preferred && may(candidate)
        };
        if let Some(preferred) = self.all.iter().position(is_preferred) {
            return Some(preferred);
        }
        let by_hash = match rule.terms.balance {
            Some(Balance::Maglev) => self.by_hash(hash, &may),
            Some(Balance::LeastConnections) | None => None,
        };
        by_hash.or_else(|| self.by_load(may))
    }

    /// The flow's slot, or the next one whose backend may be chosen. So the flows
    /// of a backend that failed are spread over all others.
    fn by_hash(&self, hash: u64, may: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let (before, behind) = self.slots.split_at(slot_of(hash, self.slots.len()));
        let mut positions = behind.iter().chain(before).map(|&slot| usize::from(slot));
        positions.find(|&position| self.all.get(position).is_some_and(&may))
    }

    /// Power of two choices (Mitzenmacher, 2001): takes the next backend in turn
    /// and a random one, and returns the less loaded of both. While no connections
    /// are open this is round robin, so few connections are spread evenly too.
    fn by_load(&mut self, may: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let weights = || {
            let candidates = self.all.iter().enumerate().filter(|(_, candidate)| may(candidate));
            candidates.map(|(position, candidate)| (position, u64::from(candidate.weight.get())))
        };
        let total: u64 = weights().map(|(_, weight)| weight).sum();
        let at = |point: u64| {
            let mut left = point.checked_rem(total)?;
            weights().find_map(|(position, weight)| match left.checked_sub(weight) {
                Some(rest) => {
                    left = rest;
                    None
                }
                None => Some(position),
            })
        };
        let (first, second) = (at(self.round)?, at(mix(self.round))?);
        self.round = self.round.wrapping_add(1);
        let is_less_loaded = self.all[second].is_less_loaded_than(&self.all[first]);
        Some(if is_less_loaded { second } else { first })
    }
}

impl Candidate {
    fn new(backend: Backend, traffic: Arc<BackendTraffic>) -> Self {
        let (open, is_suspect) = (AtomicU64::default(), AtomicBool::default());
        Self {
            backend,
            weight: Weight::MIN,
            shared: Arc::new(Shared { traffic, open, is_suspect }),
            failures: 0,
            avoided_until: None,
            is_probed: false,
            failure: None,
        }
    }

    /// It could not be reached. Connections that fail together count as one failure. True if
    /// it did not fail before, or has answered since.
    pub(super) fn failed(&mut self, why: FailureReason, now: Instant) -> bool {
        let before = self.failure;
        if self.is_probed || !self.is_avoided(now) {
            self.failures = self.failures.saturating_add(1);
            self.avoided_until = Some(now + failure_memory(self.failures));
            self.is_probed = false;
            self.shared.is_suspect.store(true, Ordering::Relaxed);
            let since = before.map_or(now.into_std(), |failure| failure.since);
            self.failure = Some(BackendFailure { why, since });
        }
        before.is_none() && self.failure.is_some()
    }

    /// It is as good as any other again.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.avoided_until = None;
        self.is_probed = false;
        self.failure = None;
    }

    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }

    /// Compares open connections for each unit of weight, without dividing.
    fn is_less_loaded_than(&self, other: &Self) -> bool {
        let load = |of: &Self, by: &Self| of.shared.open.load(Ordering::Relaxed) * u64::from(by.weight.get());
        load(self, other) < load(other, self)
    }
}

fn failure_memory(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(u32::BITS - 1);
    FAILURE_MEMORY.saturating_mul(1 << doublings).min(LONGEST_FAILURE_MEMORY)
}
