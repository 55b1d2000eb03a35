// SPDX-License-Identifier: Apache-2.0
//! The pace at which a watch is tried again. What failed is not looked at here.

use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::ExponentialBackoff;

const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Up to as much again is added at random, so that agents do not ask in step.
pub(super) const LAST_RETRY: Duration = Duration::from_secs(5);
/// Nothing failed for so long, which is longer than any delay with its attempt:
/// the next failure is a first one.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Growing delays that only time makes short again. A watch that is about to
/// list says so first, which counts as success: by that alone a list that
/// always fails would be asked for every 250 ms.
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
        self.after_failure(Instant::now())
    }
}

impl Backoff for Retries {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_makes_the_delays_short_again() {
        let (mut retries, start) = (Retries::new(), Instant::now());
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
