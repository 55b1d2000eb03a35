// SPDX-License-Identifier: Apache-2.0
//! The task that asks the planes each second what they have counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::meter::Meter;
use crate::clock;
use crate::dataplane::Counting;
use crate::error_chain::ErrorChain;

/// Between two samples.
const PACE: Duration = Duration::from_secs(1);

/// The meter that the task writes and the admin endpoint reads. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedMeter(Arc<Mutex<Meter>>);

impl SharedMeter {
    /// The meter as of the last sample. The next sample waits until this is dropped.
    pub(crate) fn read(&self) -> MutexGuard<'_, Meter> {
        // A panic may leave a sample out of some rows; the next one goes on from there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the totals up to now, between two samples.
    pub(super) fn catch_up(&self, counting: &Counting) {
        // Under the lock: of two samples, the older one must not come last.
        let mut meter = self.read();
        meter.catch_up(&counting.now());
    }
}

/// Samples until the process ends.
pub fn sample(counting: Counting) -> SharedMeter {
    let meter = SharedMeter::default();
    let written = meter.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (counting, written) = (counting.clone(), written.clone());
            // It reads maps, and with thousands of frontends it takes some milliseconds.
            let sampled = tokio::task::spawn_blocking(move || {
                let mut meter = written.read();
                meter.step(counting.now(), clock::now_std());
            });
            if let Err(error) = sampled.await {
                tracing::error!(error = %ErrorChain(&error), "cannot tell what goes through");
            }
        }
    });
    meter
}
