// SPDX-License-Identifier: Apache-2.0
//! When a failed watch is tried again. Not: what failed.

use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::ExponentialBackoff;

use crate::clock;

const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The longest delay. Up to the same time is added at random, so that agents do not all
/// ask the API server at the same moment.
pub(super) const LAST_RETRY: Duration = Duration::from_secs(5);
/// After this time without a failure the delays start again with [`FIRST_RETRY`]. It is
/// longer than any delay and the attempt after it.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Growing delays, which become short again only after a time without failures. The
/// watcher of kube resets them at the start of each list. If this did anything, a list
/// that always fails would be requested every 250 ms.
pub(super) struct Retries {
    delays: ExponentialBackoff,
    last_failure: Option<Instant>,
}

impl Retries {
    pub(super) fn new() -> Self {
        let delays = ExponentialBuilder::default().with_min_delay(FIRST_RETRY).with_max_delay(LAST_RETRY);
        Self { delays: delays.with_jitter().without_max_times().into(), last_failure: None }
    }

    fn after_failure(&mut self, now: Instant) -> Option<Duration> {
        let last = self.last_failure.replace(now);
        if last.is_some_and(|last| now.saturating_duration_since(last) > HEALTHY_AFTER) {
            self.delays.reset();
        }
        self.delays.next()
    }
}

impl Iterator for Retries {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.after_failure(clock::now_std())
    }
}

impl Backoff for Retries {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_become_short_again_only_after_a_time_without_failures() {
        let (mut retries, start) = (Retries::new(), clock::now_std());
        assert!(retries.after_failure(start).unwrap() <= 2 * FIRST_RETRY);
        for _ in 0..10 {
            retries.reset();
            retries.after_failure(start);
        }
        assert!(retries.after_failure(start).unwrap() >= LAST_RETRY);
        let later = start + HEALTHY_AFTER + Duration::from_secs(1);
        assert!(retries.after_failure(later).unwrap() <= 2 * FIRST_RETRY);
    }
}
