// SPDX-License-Identifier: Apache-2.0
//! Counters of each frontend and of each of its backends. They disappear with
//! what they count. The plane's totals are in `metrics.rs`; how these counters
//! become metrics is in `traffic_collector.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::latency::Smoothed;
use super::live_entries::{Entry, LiveEntries};
use super::metrics::{PerDirection, Refusal, connect_times, durations};
use crate::model::{Backend, Frontend, ServiceName};

/// Frontends and backends with series of their own at one time, so that a scrape
/// stays readable, and those with counters of their own. All others share one series and one counter.
const FRONTENDS: (usize, usize) = (1_000, 12_288);
const BACKENDS: (usize, usize) = (5_000, 32_768);

/// The number of a counter: each one gets another.
#[derive(Debug)]
pub(super) struct Number(pub(super) u64);

impl Default for Number {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The counters of one frontend. UDP sessions count as connections; the bytes of
/// datagrams are those of their payload.
#[derive(Debug)]
pub(super) struct FrontendTraffic {
    pub(super) number: Number,
    pub(super) connections: Counter,
    pub(super) active: Gauge,
    pub(super) bytes: PerDirection,
    /// With the buckets of the plane's histogram of this name, as for `duration`.
    pub(super) connect_time: Histogram,
    pub(super) duration: Histogram,
    refusals: Refusals,
}

/// Refusals of a frontend, in the order of [`Refusal::ALL`].
#[derive(Debug, Default)]
struct Refusals {
    own: [Counter; Refusal::ALL.len()],
    /// Where the counts go when the frontend ends, if it has no series of its own.
    others: Option<[Counter; Refusal::ALL.len()]>,
}

impl Drop for Refusals {
    fn drop(&mut self) {
        for (others, own) in self.others.iter().flatten().zip(&self.own) {
            others.inc_by(own.get());
        }
    }
}

/// The counters of one backend of one frontend.
#[derive(Debug, Default)]
pub(super) struct BackendTraffic {
    pub(super) number: Number,
    /// It has no series of its own.
    pub(super) is_hidden: bool,
    pub(super) connections: Counter,
    pub(super) active: Gauge,
    /// Failed attempts to reach it.
    pub(super) failures: Counter,
    pub(super) bytes: PerDirection,
    /// Until it accepted.
    pub(super) connect_time: Smoothed,
    /// Of connections that have ended.
    pub(super) round_trip: Smoothed,
}

pub(super) type FrontendKey = (ServiceName, Frontend);
pub(super) type BackendKey = (ServiceName, Frontend, Backend);

/// The counters of all frontends and backends in use. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic(Arc<Entries>);

#[derive(Debug)]
struct Entries {
    frontends: LiveEntries<FrontendKey, FrontendTraffic>,
    backends: LiveEntries<BackendKey, BackendTraffic>,
}

impl Traffic {
    /// The counters of `frontend` while it belongs to `service`.
    pub(super) fn of_frontend(&self, service: &ServiceName, frontend: Frontend) -> Arc<FrontendTraffic> {
        self.0.frontends.of((service.clone(), frontend))
    }

    /// The counters of a backend of such a frontend.
    pub(super) fn of_backend(
        &self,
        service: &ServiceName,
        frontend: Frontend,
        backend: Backend,
    ) -> Arc<BackendTraffic> {
        self.0.backends.of((service.clone(), frontend, backend))
    }

    /// All frontends in use. Without a key: those that share one entry.
    pub(super) fn frontends(&self) -> Vec<(Option<FrontendKey>, Arc<FrontendTraffic>)> {
        self.0.frontends.all()
    }

    /// All backends in use. Without a key: those that share one entry.
    pub(super) fn backends(&self) -> Vec<(Option<BackendKey>, Arc<BackendTraffic>)> {
        self.0.backends.all()
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self { frontends: LiveEntries::new(FRONTENDS), backends: LiveEntries::new(BACKENDS) }
    }
}

impl Default for FrontendTraffic {
    fn default() -> Self {
        Self {
            number: Number::default(),
            connections: Counter::default(),
            active: Gauge::default(),
            bytes: PerDirection::default(),
            connect_time: connect_times(),
            duration: durations(),
            refusals: Refusals::default(),
        }
    }
}

impl Entry for FrontendTraffic {
    /// Its times are among those of all others.
    fn beside(others: &Arc<Self>) -> Self {
        let (connect_time, duration) = (others.connect_time.clone(), others.duration.clone());
        let refusals = Refusals { own: Default::default(), others: Some(others.refusals.own.clone()) };
        Self { connect_time, duration, refusals, ..Self::default() }
    }
}

impl Entry for BackendTraffic {
    fn beside(_: &Arc<Self>) -> Self {
        Self { is_hidden: true, ..Self::default() }
    }
}

impl FrontendTraffic {
    /// Whether it has no series of its own.
    pub(super) fn is_hidden(&self) -> bool {
        self.refusals.others.is_some()
    }

    /// The counter of `reason`.
    pub(super) fn refusals(&self, reason: Refusal) -> &Counter {
        &self.refusals.own[reason as usize]
    }
}
