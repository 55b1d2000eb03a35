// SPDX-License-Identifier: Apache-2.0
//! When something is tried again that has failed: after a pause that grows with each failure. Pure.

use std::time::Duration;

use tokio::time::Instant;

const SHORTEST: Duration = Duration::from_secs(1);
/// An operator who has removed the cause waits no longer than this.
const LONGEST: Duration = Duration::from_secs(10);

/// The next attempt at something that has failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    due: Instant,
    pause: Duration,
}

impl Retry {
    /// Something has failed at `now`. `before`: the retry that this was.
    pub(super) fn after(before: Option<Self>, now: Instant) -> Self {
        let pause = before.map_or(SHORTEST, |before| (before.pause * 2).min(LONGEST));
        Self { due: now + pause, pause }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn the_pause_grows_up_to_a_limit() {
        let now = clock::now();
        let first = Retry::after(None, now);
        assert!(!first.is_due(now) && first.is_due(now + SHORTEST));
        let second = Retry::after(Some(first), now);
        assert!(!second.is_due(now + SHORTEST) && second.is_due(now + 2 * SHORTEST));
        let last = (0..100).fold(second, |retry, _| Retry::after(Some(retry), now));
        assert!(last.is_due(now + LONGEST));
    }
}
