// SPDX-License-Identifier: Apache-2.0
//! The task that reads the counters of the planes every second.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::meter::Meter;
use crate::clock;
use crate::dataplane::Counting;
use crate::error_chain::ErrorChain;

/// The time between two samples.
const PACE: Duration = Duration::from_secs(1);

/// The meter that the task writes and the admin endpoint reads. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedMeter(Arc<Mutex<Meter>>);

impl SharedMeter {
    /// The meter as of the last sample. The next sample waits until this is dropped.
    pub(crate) fn read(&self) -> MutexGuard<'_, Meter> {
        // After a panic, some rows may lack a sample; the next sample makes up for it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the totals up to date between two samples. They stay as they are if the counters can't be read.
    pub(super) fn catch_up(&self, counting: &Counting) {
        // The counters are read under the lock, so that an older sample never comes after a newer one.
        let mut meter = self.read();
        if let Ok(counts) = counting.now() {
            meter.catch_up(&counts);
        }
    }

    /// Takes a sample. If that fails, the step lasts until the next sample.
    fn step(&self, counting: &Counting, now: impl FnOnce() -> Instant) -> io::Result<()> {
        let mut meter = self.read();
        let counts = counting.now()?;
        meter.step(counts, now());
        Ok(())
    }
}

/// Samples until the process ends.
pub fn sample(counting: Counting) -> SharedMeter {
    let meter = SharedMeter::default();
    let written = meter.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_failed = false;
        loop {
            ticks.tick().await;
            let (counting, written) = (counting.clone(), written.clone());
            // A sample reads maps, which takes some milliseconds with thousands of frontends, so a thread of its own does it.
            let sampled = tokio::task::spawn_blocking(move || written.step(&counting, clock::now_std));
            let result = sampled.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            // Only the first failure is logged, not those that follow it directly.
            match &result {
                Err(error) if !has_failed => {
                    tracing::error!(error = %ErrorChain(error), "cannot read the traffic counters");
                }
                Ok(()) if has_failed => tracing::info!("the traffic counters can be read again"),
                _ => {}
            }
            has_failed = result.is_err();
        }
    });
    meter
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::model::{Backend, Counted, Counter, Counts, Frontend, Port, Protocol};

    #[test]
    fn a_sample_that_fails_makes_a_longer_step_and_no_growth() {
        let port = Port::new(80).unwrap();
        let frontend = Frontend { vip: [192, 0, 2, 100].into(), port, protocol: Protocol::Tcp };
        let asked = AtomicUsize::new(0);
        let counting = Counting::new(move || {
            let new = match asked.fetch_add(1, Ordering::Relaxed) {
                0 => 1_000,
                1 | 2 => return Err(io::Error::other("no memory")),
                _ => 1_006,
            };
            let counter = Counter {
                number: 1,
                frontend,
                backend: Some(Backend { address: ([192, 0, 2, 31], 30080).into() }),
                counted: Counted { new, ..Counted::default() },
                active: 0,
                connect_time: None,
                round_trip: None,
            };
            Ok(Counts { packet: vec![counter], ..Counts::default() })
        });
        let (meter, start) = (SharedMeter::default(), clock::now_std());
        let step = |secs| meter.step(&counting, || start + Duration::from_secs(secs));
        assert!(step(0).is_ok() && step(1).is_err());
        meter.catch_up(&counting);
        assert!(step(2).is_ok());
        let meter = meter.read();
        let flow = meter.frontend(&frontend).unwrap();
        let rates = meter.rates(flow, 10).unwrap();
        assert_eq!((flow.totals().new, rates.per_second[0], rates.secs), (6, 3.0, 2.0));
    }
}
