// SPDX-License-Identifier: Apache-2.0
//! Chooses the backend of the next connection or session of one frontend: by
//! least connections or Maglev, avoiding backends that failed. Pure: the rule
//! and the time are arguments, and nothing is connected here.

mod candidates;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llb_common::hash::FlowKey;
use tokio::time::Instant;

pub(super) use self::candidates::Criteria;
use self::candidates::{Candidates, Shared};
use super::traffic::{BackendTraffic, Traffic};
use crate::model::{Backend, BackendFailure, FailureReason, Frontend, Protocol, Rule};

/// Chooses for one frontend, and remembers which backends failed.
#[derive(Debug)]
pub(super) struct Selection {
    frontend: Frontend,
    traffic: Traffic,
    candidates: Mutex<Candidates>,
}

/// A chosen backend. It has one more open connection until this is dropped.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) backend: Backend,
    shared: Arc<Shared>,
}

impl Selection {
    /// For connections to `frontend`.
    pub(super) fn new(frontend: Frontend, traffic: Traffic) -> Self {
        Self { frontend, traffic, candidates: Mutex::default() }
    }

    /// Chooses one of the rule's backends. One that failed lately is chosen only
    /// if no other is left. `None`: all were tried.
    pub(super) fn next(&self, rule: &Arc<Rule>, criteria: Criteria<'_>, now: Instant) -> Option<Chosen> {
        let mut candidates = self.lock();
        candidates.follow(rule, |backend| self.traffic.of_backend(&rule.service, self.frontend, backend));
        let hash = flow_hash(rule, self.frontend, criteria.client);
        let chosen = candidates.choose(rule, criteria, hash, now)?;
        chosen.shared.open.fetch_add(1, Ordering::Relaxed);
        chosen.shared.traffic.active.inc();
        Some(Chosen { backend: chosen.backend, shared: Arc::clone(&chosen.shared) })
    }

    /// `backend` could not be reached. True if that is news.
    pub(super) fn failed(&self, backend: Backend, why: FailureReason, now: Instant) -> bool {
        self.lock().get_mut(backend).is_some_and(|failed| {
            failed.shared.traffic.failures.inc();
            failed.failed(why, now)
        })
    }

    /// The backends that failed and have not answered since.
    pub(super) fn failing(&self) -> BTreeMap<Backend, BackendFailure> {
        self.lock().failing().collect()
    }

    /// `chosen` answered. True if that is news.
    pub(super) fn answered(&self, chosen: &Chosen) -> bool {
        // Reads before it writes, because a write takes the cache line from all other cores.
        let is_suspect = &chosen.shared.is_suspect;
        if is_suspect.load(Ordering::Relaxed)
            && is_suspect.swap(false, Ordering::Relaxed)
            && let Some(answered) = self.lock().get_mut(chosen.backend)
        {
            answered.answered();
            return true;
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, Candidates> {
        self.candidates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chosen {
    /// The backend's counters.
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

/// With affinity, all flows of a client have one hash: Maglev then finds the
/// client's backend even if `affinity.rs` has forgotten it.
fn flow_hash(rule: &Rule, frontend: Frontend, client: SocketAddr) -> u64 {
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
