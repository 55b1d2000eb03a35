// SPDX-License-Identifier: Apache-2.0
//! Reads what the relay has counted, from any task.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Semaphore;

use super::latency::Smoothed;
use super::metrics::Refusal;
use super::plane_context::PlaneContext;
use super::traffic::{BackendKey, BackendTraffic, FrontendKey, FrontendTraffic, Traffic};
use crate::model::{Counted, Counter, Fill};

/// The number of a counter of the packet plane has 32 bits.
const FIRST_NUMBER: u64 = 1 << 32;

/// A question about what the relay has counted.
#[derive(Debug)]
pub struct RelayCounting {
    traffic: Traffic,
    /// Something with a limit: how many are open, and the permits for more.
    limits: [(&'static str, Gauge, Arc<Semaphore>); 2],
}

impl RelayCounting {
    pub(super) fn new(context: &PlaneContext) -> Self {
        let (totals, limits) = (&context.counters.totals, &context.limits);
        Self {
            traffic: context.counters.traffic.clone(),
            limits: [
                ("tcp_connections", totals.connections_active.clone(), Arc::clone(&limits.connections)),
                ("udp_sessions", totals.udp_sessions_active.clone(), Arc::clone(&limits.udp_sessions)),
            ],
        }
    }

    /// The counters of the frontends and of their backends, as far as they have some of their own; and how many are in use that
    /// several share.
    pub fn counters(&self) -> (Vec<Counter>, usize) {
        let (mut counters, mut shared) = (Vec::new(), 0);
        for (key, traffic) in self.traffic.frontends() {
            match key {
                Some(key) => counters.push(of_frontend(key, &traffic)),
                None => shared += usize::from(is_in_use(&traffic)),
            }
        }
        for (key, traffic) in self.traffic.backends() {
            match key {
                Some(key) => counters.push(of_backend(key, &traffic)),
                None => shared += usize::from(is_in_use(&traffic)),
            }
        }
        (counters, shared)
    }

    /// How much can be open at one time, and is.
    pub fn limits(&self) -> Vec<Fill> {
        let fill = |(name, open, free): &(&'static str, Gauge, Arc<Semaphore>)| {
            let used = open.get().try_into().unwrap_or(0);
            Fill { name, used, most: used + free.available_permits() as u64 }
        };
        self.limits.iter().map(fill).collect()
    }
}

/// Whether frontends or backends use this shared entry. Two references are not theirs: that of the list of all entries, and that
/// of the answer here.
fn is_in_use<T>(shared: &Arc<T>) -> bool {
    Arc::strong_count(shared) > 2
}

fn of_frontend((_, frontend): FrontendKey, traffic: &FrontendTraffic) -> Counter {
    let counted = Counted {
        new: traffic.connections.get(),
        bytes_in: traffic.bytes.forward.get(),
        bytes_out: traffic.bytes.reply.get(),
        refused: Refusal::ALL.map(|reason| traffic.refusals(reason).get()).iter().sum(),
        ..Counted::default()
    };
    Counter {
        number: FIRST_NUMBER + traffic.number.0,
        frontend,
        backend: None,
        counted,
        active: traffic.active.get().try_into().unwrap_or(0),
        connect_time: None,
        round_trip: None,
    }
}

fn of_backend((_, frontend, backend): BackendKey, traffic: &BackendTraffic) -> Counter {
    let counted = Counted {
        new: traffic.connections.get(),
        bytes_in: traffic.bytes.forward.get(),
        bytes_out: traffic.bytes.reply.get(),
        failures: traffic.failures.get(),
        ..Counted::default()
    };
    Counter {
        number: FIRST_NUMBER + traffic.number.0,
        frontend,
        backend: Some(backend),
        counted,
        active: traffic.active.get().try_into().unwrap_or(0),
        connect_time: known(&traffic.connect_time),
        round_trip: known(&traffic.round_trip),
    }
}

/// `None` until there is a value.
fn known(time: &Smoothed) -> Option<Duration> {
    let seconds = time.gauge().get();
    if seconds > 0.0 { Duration::try_from_secs_f64(seconds).ok() } else { None }
}
