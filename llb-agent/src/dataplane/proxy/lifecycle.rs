// SPDX-License-Identifier: Apache-2.0
//! The life of one frontend, from serving over draining to ended. Knows no
//! sockets and starts no tasks.
//!
//! ```text
//!            serve                  remove              nothing open, or time-out
//!   (new) ---------> Serving -----------------> Draining ------------------------> Ended
//!                       ^                          |
//!                       `------- serve ------------'        serving again after Ended needs a new Lifecycle
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The stage of one frontend, shared by its tasks.
#[derive(Debug)]
pub(super) struct Lifecycle(Mutex<State>);

#[derive(Debug)]
struct State {
    stage: Stage,
    /// Drains that have begun so far; the number of the newest one.
    drains: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// What is open at that time is cut.
    Draining(Instant),
    Ended,
}

/// One drain of a frontend. A later drain, or serving again, calls it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    number: u64,
    pub(super) until: Instant,
}

impl Default for Lifecycle {
    /// Serving.
    fn default() -> Self {
        Self(Mutex::new(State { stage: Stage::Serving, drains: 0 }))
    }
}

impl Lifecycle {
    pub(super) fn is_serving(&self) -> bool {
        self.lock().stage == Stage::Serving
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().stage == Stage::Ended
    }

    /// Serves from now on; false if the frontend has already ended.
    pub(super) fn resume(&self) -> bool {
        let mut state = self.lock();
        if state.stage == Stage::Ended {
            return false;
        }
        state.stage = Stage::Serving;
        true
    }

    /// Starts a drain. `None`: the frontend has ended, or a drain that ends no
    /// later is running.
    pub(super) fn start_draining(&self, until: Instant) -> Option<Drain> {
        let mut state = self.lock();
        match state.stage {
            Stage::Draining(running) if running <= until => return None,
            Stage::Ended => return None,
            Stage::Serving | Stage::Draining(_) => {}
        }
        state.drains += 1;
        state.stage = Stage::Draining(until);
        Some(Drain { number: state.drains, until })
    }

    /// Ends the frontend after `drain`; false if that drain was called off.
    pub(super) fn end(&self, drain: Drain) -> bool {
        let mut state = self.lock();
        let is_running = state.drains == drain.number && state.stage == Stage::Draining(drain.until);
        if is_running {
            state.stage = Stage::Ended;
        }
        is_running
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[test]
    fn a_sooner_drain_replaces_a_later_one_and_serving_calls_both_off() {
        let (lifecycle, now) = (Lifecycle::default(), clock::now());
        let [soon, late, latest] = [1, 2, 3].map(|seconds| now + Duration::from_secs(seconds));
        let last = lifecycle.start_draining(latest).unwrap();
        assert_eq!(lifecycle.start_draining(latest), None);
        let sooner = lifecycle.start_draining(soon).unwrap();
        assert_eq!(lifecycle.start_draining(late), None);
        assert!(!lifecycle.end(last));

        assert!(lifecycle.resume());
        assert!(!lifecycle.end(sooner));
        let again = lifecycle.start_draining(soon).unwrap();
        assert!(!lifecycle.end(sooner), "same limit, but another drain");
        assert!(lifecycle.end(again));
        assert!(lifecycle.has_ended() && !lifecycle.resume());
        assert_eq!(lifecycle.start_draining(soon), None);
    }
}
