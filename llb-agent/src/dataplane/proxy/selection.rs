//! Choosing the backend of the next connection or session of one frontend:
//! round robin, with a short memory of those that failed. Pure: the rule and
//! the time come in as arguments, nothing is connected here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Backend;

/// How long a backend that failed is passed over while another one is left.
/// Afterwards one connection tries it, and while that one waits the others
/// still pass it over: a dead backend costs one connection in 5 s the connect
/// time-out. Longer would keep traffic away from a node that has come back.
pub(super) const FAILURE_MEMORY: Duration = Duration::from_secs(5);

/// The turn and the memory of one frontend.
#[derive(Debug, Default)]
pub(super) struct Selection {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts choices; the remainder by the number of candidates is the turn.
    turn: usize,
    /// Backends that failed and have not answered since, and until when they
    /// are passed over.
    avoided_until: BTreeMap<Backend, Instant>,
}

impl Selection {
    /// The next of `backends` that is not in `tried`. One that failed lately is
    /// chosen only when no other is left. `None`: all were tried.
    pub(super) fn next(
        &self,
        backends: &BTreeSet<Backend>,
        tried: &[Backend],
        now: Instant,
    ) -> Option<Backend> {
        let mut state = self.lock();
        // Backends that left the rule need no memory.
        state.avoided_until.retain(|backend, _| backends.contains(backend));

        let untried = || backends.iter().filter(|backend| !tried.contains(backend));
        let good = || untried().filter(|backend| !state.is_avoided(backend, now));
        let chosen = match (good().count(), untried().count()) {
            (0, 0) => return None,
            (0, untried_count) => untried().nth(state.turn % untried_count),
            (good_count, _) => good().nth(state.turn % good_count),
        }
        .copied()?;

        state.turn = state.turn.wrapping_add(1);
        if let Some(until) = state.avoided_until.get_mut(&chosen) {
            *until = now + FAILURE_MEMORY;
        }
        Some(chosen)
    }

    /// `backend` could not be reached.
    pub(super) fn failed(&self, backend: Backend, now: Instant) {
        self.lock().avoided_until.insert(backend, now + FAILURE_MEMORY);
    }

    /// `backend` answered.
    pub(super) fn answered(&self, backend: Backend) {
        self.lock().avoided_until.remove(&backend);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_avoided(&self, backend: &Backend, now: Instant) -> bool {
        self.avoided_until.get(backend).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(last_octet: u8) -> Backend {
        Backend { address: ([192, 0, 2, last_octet], 80).into() }
    }

    fn choices(selection: &Selection, backends: &BTreeSet<Backend>, now: Instant, count: usize) -> Vec<u8> {
        (0..count)
            .map(|_| match selection.next(backends, &[], now).unwrap().address.ip() {
                std::net::IpAddr::V4(v4) => v4.octets()[3],
                std::net::IpAddr::V6(_) => unreachable!(),
            })
            .collect()
    }

    #[test]
    fn every_backend_gets_its_turn() {
        let backends = [1, 2, 3].map(backend).into();
        assert_eq!(choices(&Selection::default(), &backends, Instant::now(), 7), [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn one_that_failed_is_passed_over_and_its_share_is_spread_evenly() {
        let (selection, backends, now) =
            (Selection::default(), [1, 2, 3, 4].map(backend).into(), Instant::now());
        selection.failed(backend(2), now);
        let mut chosen = choices(&selection, &backends, now, 300);
        chosen.sort_unstable();
        let shares: Vec<_> = chosen.chunk_by(|a, b| a == b).map(|share| (share[0], share.len())).collect();
        assert_eq!(shares, [(1, 100), (3, 100), (4, 100)]);
    }

    #[test]
    fn after_the_memory_ends_one_choice_tries_it_again() {
        let (selection, backends, now) = (Selection::default(), [1, 2].map(backend).into(), Instant::now());
        selection.failed(backend(2), now);
        let later = now + FAILURE_MEMORY;
        let chosen = choices(&selection, &backends, later, 10);
        assert_eq!(chosen.iter().filter(|choice| **choice == 2).count(), 1, "{chosen:?}");
        selection.answered(backend(2));
        let chosen = choices(&selection, &backends, later, 10);
        assert_eq!(chosen.iter().filter(|choice| **choice == 2).count(), 5, "{chosen:?}");
    }

    #[test]
    fn all_failed_means_all_are_tried() {
        let (selection, backends, now) = (Selection::default(), [1, 2].map(backend).into(), Instant::now());
        selection.failed(backend(1), now);
        selection.failed(backend(2), now);
        assert_eq!(selection.next(&backends, &[backend(1)], now), Some(backend(2)));
        assert_eq!(selection.next(&backends, &[backend(1), backend(2)], now), None);
        assert_eq!(selection.next(&BTreeSet::new(), &[], now), None);
    }

    #[test]
    fn a_backend_that_left_the_rule_is_forgotten() {
        let (selection, now) = (Selection::default(), Instant::now());
        selection.failed(backend(1), now);
        selection.next(&[backend(2)].into(), &[], now);
        assert!(selection.lock().avoided_until.is_empty());
    }
}
