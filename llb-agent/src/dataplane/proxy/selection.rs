// SPDX-License-Identifier: Apache-2.0
//! Choosing the backend of the next connection or session of one frontend: by
//! least connections or Maglev, around those that failed. Pure: the rule and
//! the time come in as arguments, nothing is connected here.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llb_common::hash::{FlowKey, mix};
use llb_common::maglev::{Contender, NOBODY, fill, slot_of, slots_for};
use tokio::time::Instant;

use super::traffic::{BackendTraffic, Traffic};
use crate::model::{Backend, Balance, Frontend, Protocol, Rule, Weight};

/// How long a backend that failed is passed over while another one is left.
/// Afterwards one connection tries it, and while that one waits the others
/// still pass it over; so a dead backend costs one connection the connect
/// time-out, and each time the wait doubles ...
pub(super) const FAILURE_MEMORY: Duration = Duration::from_secs(5);
/// ... up to this. Longer would keep traffic away from a node that has come back.
const LONGEST_FAILURE_MEMORY: Duration = Duration::from_secs(60);

/// The choice and the memory of one frontend.
#[derive(Debug)]
pub(super) struct Selection {
    frontend: Frontend,
    traffic: Traffic,
    state: Mutex<State>,
}

/// What a choice depends on, besides the rule and the past.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) client: SocketAddr,
    /// By affinity: a backend at this address, if it is as good as any other.
    pub(super) preferred: Option<IpAddr>,
    /// Not these.
    pub(super) tried: &'a [Backend],
}

/// A backend that was chosen; counts as one of its connections until dropped.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) backend: Backend,
    shared: Arc<Shared>,
}

/// What is known of a backend without the lock.
#[derive(Debug)]
struct Shared {
    traffic: Arc<BackendTraffic>,
    /// Not `traffic.active`, which others may share.
    open: AtomicU64,
    /// It failed, and has not answered since.
    suspect: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// What the rest was made for.
    rule: Option<Arc<Rule>>,
    candidates: Vec<Candidate>,
    /// Positions in `candidates`; empty unless the rule wants Maglev.
    slots: Vec<u16>,
    turn: u64,
}

#[derive(Debug)]
struct Candidate {
    backend: Backend,
    weight: Weight,
    shared: Arc<Shared>,
    /// In a row; an answer ends the row.
    failures: u32,
    /// Passed over until then. Absent without failures.
    avoided_until: Option<Instant>,
    /// One connection tries it now; its failure, not those of stragglers, counts.
    is_probed: bool,
}

impl Selection {
    /// For connections to `frontend`.
    pub(super) fn new(frontend: Frontend, traffic: Traffic) -> Self {
        Self { frontend, traffic, state: Mutex::default() }
    }

    /// The next of the rule's backends. One that failed lately is chosen only
    /// when no other is left. `None`: all were tried.
    pub(super) fn next(&self, rule: &Arc<Rule>, wanted: Wanted<'_>, now: Instant) -> Option<Chosen> {
        let mut state = self.lock();
        state.follow(rule, |backend| self.traffic.of_backend(&rule.service, self.frontend, backend));
        let untried = |candidate: &Candidate| !wanted.tried.contains(&candidate.backend);
        let good = |candidate: &Candidate| untried(candidate) && !candidate.is_avoided(now);
        let hash = hash_of(rule, self.frontend, wanted.client);
        let chosen =
            state.choose(rule, wanted, hash, good).or_else(|| state.choose(rule, wanted, hash, untried))?;
        let chosen = &mut state.candidates[chosen];
        if chosen.avoided_until.is_some_and(|until| until <= now) {
            chosen.avoided_until = Some(now + memory_of(chosen.failures));
            chosen.is_probed = true;
        }
        chosen.shared.open.fetch_add(1, Ordering::Relaxed);
        chosen.shared.traffic.active.inc();
        Some(Chosen { backend: chosen.backend, shared: Arc::clone(&chosen.shared) })
    }

    /// It could not be reached.
    pub(super) fn failed(&self, backend: Backend, now: Instant) {
        let mut state = self.lock();
        let Some(failed) = state.candidates.iter_mut().find(|candidate| candidate.backend == backend) else {
            return;
        };
        failed.shared.traffic.failures.inc();
        // Many connections that fail together are one failure.
        if failed.is_probed || !failed.is_avoided(now) {
            failed.failures = failed.failures.saturating_add(1);
            failed.avoided_until = Some(now + memory_of(failed.failures));
            failed.is_probed = false;
            failed.shared.suspect.store(true, Ordering::Relaxed);
        }
    }

    /// It answered.
    pub(super) fn answered(&self, chosen: &Chosen) {
        // Looked at first, since writing takes the cache line from all other cores.
        let suspect = &chosen.shared.suspect;
        if !suspect.load(Ordering::Relaxed) || !suspect.swap(false, Ordering::Relaxed) {
            return;
        }
        for candidate in &mut self.lock().candidates {
            if candidate.backend == chosen.backend {
                candidate.failures = 0;
                candidate.avoided_until = None;
                candidate.is_probed = false;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chosen {
    /// The counters of the backend.
    pub(super) fn traffic(&self) -> &BackendTraffic {
        &self.shared.traffic
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.traffic.active.dec();
    }
}

impl State {
    /// Takes over `rule`. What is known of backends that stay is kept.
    fn follow(&mut self, rule: &Arc<Rule>, traffic: impl Fn(Backend) -> Arc<BackendTraffic>) {
        if self.rule.as_ref().is_some_and(|known| Arc::ptr_eq(known, rule)) {
            return;
        }
        let mut old = std::mem::take(&mut self.candidates);
        // Ids of Maglev slots have 16 bits; no cluster has so many Pods behind a port.
        for (&backend, &weight) in rule.backends.iter().take(usize::from(NOBODY)) {
            let known = old.iter().position(|candidate| candidate.backend == backend);
            let known = known.map(|position| old.swap_remove(position));
            let candidate = known.unwrap_or_else(|| Candidate::new(backend, traffic(backend)));
            self.candidates.push(Candidate { weight, ..candidate });
        }
        self.slots.clear();
        if rule.terms.balance == Some(Balance::Maglev) {
            let names = self.candidates.iter().map(|candidate| candidate.backend.to_string());
            let weights = self.candidates.iter().map(|candidate| candidate.weight.get());
            let mut contenders: Vec<Contender> = (0..)
                .zip(names.zip(weights))
                .map(|(id, (name, weight))| Contender::new(id, name.as_bytes(), weight))
                .collect();
            self.slots.resize(slots_for(contenders.len()), NOBODY);
            fill(&mut self.slots, &mut contenders);
        }
        self.rule = Some(Arc::clone(rule));
    }

    /// One of those that `may` be chosen, as a position.
    fn choose(
        &mut self,
        rule: &Rule,
        wanted: Wanted<'_>,
        hash: u64,
        may: impl Fn(&Candidate) -> bool,
    ) -> Option<usize> {
        if !self.candidates.iter().any(&may) {
            return None;
        }
        let is_preferred = |candidate: &Candidate| {
            Some(candidate.backend.address.ip()) == wanted.preferred && may(candidate)
        };
        if let Some(preferred) = self.candidates.iter().position(is_preferred) {
            return Some(preferred);
        }
        let by_hash = match rule.terms.balance {
            Some(Balance::Maglev) => self.by_hash(hash, &may),
            Some(Balance::LeastConnections) | None => None,
        };
        by_hash.or_else(|| self.by_load(may))
    }

    /// The flow's slot, or the nearest behind it that may be chosen: so the
    /// flows of a backend that failed are spread over all others.
    fn by_hash(&self, hash: u64, may: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let (before, behind) = self.slots.split_at(slot_of(hash, self.slots.len()));
        let mut positions = behind.iter().chain(before).map(|&slot| usize::from(slot));
        positions.find(|&position| self.candidates.get(position).is_some_and(&may))
    }

    /// Power of two choices (Mitzenmacher, 2001): one whose turn it is, and one
    /// at random; the less loaded is taken. While nobody has connections this
    /// is round robin, so that few connections are spread evenly too.
    fn by_load(&mut self, may: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let weights = || {
            let candidates = self.candidates.iter().enumerate().filter(|(_, candidate)| may(candidate));
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
        let (first, second) = (at(self.turn)?, at(mix(self.turn))?);
        self.turn = self.turn.wrapping_add(1);
        let is_less_loaded = self.candidates[second].is_less_loaded_than(&self.candidates[first]);
        Some(if is_less_loaded { second } else { first })
    }
}

impl Candidate {
    fn new(backend: Backend, traffic: Arc<BackendTraffic>) -> Self {
        let (open, suspect) = (AtomicU64::default(), AtomicBool::default());
        Self {
            backend,
            weight: Weight::MIN,
            shared: Arc::new(Shared { traffic, open, suspect }),
            failures: 0,
            avoided_until: None,
            is_probed: false,
        }
    }

    fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }

    /// Open connections for each unit of weight, without dividing.
    fn is_less_loaded_than(&self, other: &Self) -> bool {
        let load = |of: &Self, by: &Self| of.shared.open.load(Ordering::Relaxed) * u64::from(by.weight.get());
        load(self, other) < load(other, self)
    }
}

fn memory_of(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(u32::BITS - 1);
    FAILURE_MEMORY.saturating_mul(1 << doublings).min(LONGEST_FAILURE_MEMORY)
}

/// With affinity all flows of a client are one: it finds its backend again
/// even after its memory was lost.
fn hash_of(rule: &Rule, frontend: Frontend, client: SocketAddr) -> u64 {
    let whole = FlowKey {
        source: octets(client.ip()),
        destination: octets(frontend.vip),
        source_port: client.port(),
        destination_port: frontend.port.get(),
        protocol: match frontend.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        },
    };
    if rule.terms.affinity_timeout.is_none() {
        return whole.hash();
    }
    FlowKey { destination: [0; 16], source_port: 0, destination_port: 0, protocol: 0, ..whole }.hash()
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
