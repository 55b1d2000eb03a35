// SPDX-License-Identifier: Apache-2.0
//! When the upkeep does what. Work that takes long is done less often, so that it has a bounded share of the
//! time. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How soon it is noticed that a neighbour has another MAC address or does not answer any more.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// The kernel is asked for all routes again with each look, but asking takes at most one part in this many of a
/// CPU's time ...
const REFRESH_SHARE: u32 = 50;
/// ... and is done at least so often.
const REFRESH: Duration = Duration::from_secs(10);
/// How often neighbours are made to prove that they are there. By itself the kernel would
/// notice after a minute that one is silent.
const PROBE: Duration = Duration::from_secs(2);
/// With more neighbours than this for each second, they are probed less often.
const PROBED_PER_SEC: u32 = 500;
/// How often flows are swept; far shorter than the shortest lifetime of a flow.
const SWEEP: Duration = Duration::from_secs(5);
/// Sweeps take at most one part in this many of a CPU's time.
const SWEEP_SHARE: u32 = 20;

/// When each kind of work is due next.
pub(super) struct Schedule {
    pub(super) look: Instant,
    pub(super) refresh: Instant,
    pub(super) probe: Instant,
    pub(super) sweep: Instant,
    /// The earliest time for a sweep that a drain waits for.
    early_sweep: Instant,
}

impl Schedule {
    pub(super) fn start(now: Instant) -> Self {
        Self { look: now + LOOK, refresh: now, probe: now + PROBE, sweep: now, early_sweep: now }
    }

    pub(super) fn looked(&mut self, is_full: bool, took: Duration, now: Instant) {
        self.look = now + LOOK;
        if is_full {
            self.refresh = now + REFRESH.min(took * REFRESH_SHARE);
        }
    }

    pub(super) fn probed(&mut self, count: u32, now: Instant) {
        self.probe = now + PROBE.max(Duration::from_secs(1) * count / PROBED_PER_SEC);
    }

    pub(super) fn swept(&mut self, took: Duration, now: Instant) {
        self.early_sweep = now + took * SWEEP_SHARE;
        self.sweep = self.early_sweep.max(now + SWEEP);
    }

    /// Whether flows are swept now. `is_awaited`: a drain ends with its last flow.
    pub(super) fn sweeps(&self, is_awaited: bool, now: Instant) -> bool {
        now >= if is_awaited { self.early_sweep } else { self.sweep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn walks_over_flows_and_questions_about_routes_have_a_share_of_the_time_whoever_waits() {
        let now = clock::now();
        let mut due = Schedule::start(now);
        let (short, long) = (Duration::from_millis(2), Duration::from_secs(3));
        due.swept(short, now);
        assert!(due.sweeps(true, now + SWEEP_SHARE * short) && !due.sweeps(false, now + SWEEP_SHARE * short));
        assert!(due.sweeps(false, now + SWEEP));
        due.swept(long, now);
        assert!(!due.sweeps(true, now + SWEEP) && due.sweeps(true, now + SWEEP_SHARE * long));
        due.looked(true, short, now);
        assert!(due.refresh < now + LOOK, "with the next look");
        due.looked(true, long, now);
        assert_eq!(due.refresh, now + REFRESH);
    }
}
