// SPDX-License-Identifier: Apache-2.0
//! What each frontend, and each of its backends, has had, as metrics. The
//! plane's totals are in `metrics.rs`; these here end with what they count.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::latency::Smoothed;
use super::metrics::{PerDirection, Refusal, connect_times, durations};
use crate::model::{Backend, Frontend, ServiceName};

/// Frontends and backends that have series of their own at one time: a scrape
/// must stay readable. All beyond share one series, named [`OTHERS`].
const MOST_FRONTENDS: usize = 1_000;
const MOST_BACKENDS: usize = 5_000;
const OTHERS: &str = "others";

/// Of one frontend. UDP sessions count as connections, datagrams by their payload.
#[derive(Debug)]
pub(super) struct FrontendTraffic {
    pub(super) connections: Counter,
    pub(super) active: Gauge,
    pub(super) bytes: PerDirection,
    /// As the plane's histograms of these names.
    pub(super) connect_time: Histogram,
    pub(super) duration: Histogram,
    /// By the place of the reason in [`Refusal::ALL`].
    refusals: [Counter; Refusal::ALL.len()],
}

/// Of one backend of one frontend.
#[derive(Debug, Default)]
pub(super) struct BackendTraffic {
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

/// All that live.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic(Arc<Books>);

#[derive(Debug)]
struct Books {
    frontends: Book<(ServiceName, Frontend), FrontendTraffic>,
    backends: Book<(ServiceName, Frontend, Backend), BackendTraffic>,
}

/// Entries that live as long as somebody outside holds them.
#[derive(Debug)]
struct Book<K, T> {
    live: Mutex<BTreeMap<K, Weak<T>>>,
    most: usize,
    others: Arc<T>,
}

impl Default for FrontendTraffic {
    fn default() -> Self {
        Self {
            connections: Counter::default(),
            active: Gauge::default(),
            bytes: PerDirection::default(),
            connect_time: connect_times(),
            duration: durations(),
            refusals: Default::default(),
        }
    }
}

impl FrontendTraffic {
    /// The counter of `reason`.
    pub(super) fn refusals(&self, reason: Refusal) -> &Counter {
        &self.refusals[reason as usize]
    }
}

impl Traffic {
    /// Shown in `registry` from now on.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let traffic = Self::default();
        registry.register_collector(Box::new(traffic.clone()));
        traffic
    }

    /// That of `frontend` while it belongs to `service`.
    pub(super) fn of_frontend(&self, service: &ServiceName, frontend: Frontend) -> Arc<FrontendTraffic> {
        self.0.frontends.of((service.clone(), frontend))
    }

    /// That of a backend of such a frontend.
    pub(super) fn of_backend(
        &self,
        service: &ServiceName,
        frontend: Frontend,
        backend: Backend,
    ) -> Arc<BackendTraffic> {
        self.0.backends.of((service.clone(), frontend, backend))
    }
}

impl Default for Books {
    fn default() -> Self {
        Self { frontends: Book::new(MOST_FRONTENDS), backends: Book::new(MOST_BACKENDS) }
    }
}

impl<K: Ord + Clone, T: Default> Book<K, T> {
    fn new(most: usize) -> Self {
        Self { live: Mutex::default(), most, others: Arc::default() }
    }

    fn of(&self, key: K) -> Arc<T> {
        let mut live = self.lock();
        if let Some(known) = live.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        if live.len() >= self.most {
            live.retain(|_, entry| entry.strong_count() > 0);
        }
        if live.len() >= self.most {
            return Arc::clone(&self.others);
        }
        let entry = Arc::default();
        live.insert(key, Arc::downgrade(&entry));
        entry
    }

    /// Those that live, in order, and what all others share.
    fn entries(&self) -> Vec<(Option<K>, Arc<T>)> {
        let mut entries: Vec<_> = self
            .lock()
            .iter()
            .filter_map(|(key, entry)| Some((Some(key.clone()), entry.upgrade()?)))
            .collect();
        entries.push((None, Arc::clone(&self.others)));
        entries
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Weak<T>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === Encoding ===

type Labels = Vec<(&'static str, String)>;

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let named = |(key, entry): (Option<(ServiceName, Frontend)>, _)| {
            (names(key.as_ref().map(|(service, frontend)| (service, frontend))), entry)
        };
        let frontends: Vec<(Labels, Arc<FrontendTraffic>)> =
            self.0.frontends.entries().into_iter().map(named).collect();
        let named = |(key, entry): (Option<(ServiceName, Frontend, Backend)>, _)| {
            let mut labels = names(key.as_ref().map(|(service, frontend, _)| (service, frontend)));
            labels.push((
                "backend",
                key.map_or_else(|| OTHERS.to_owned(), |(_, _, backend)| backend.to_string()),
            ));
            (labels, entry)
        };
        let backends: Vec<(Labels, Arc<BackendTraffic>)> =
            self.0.backends.entries().into_iter().map(named).collect();

        let mut metric =
            |name: &str, help: &str, kind, lines: &dyn Fn(&mut MetricEncoder<'_>) -> fmt::Result| {
                lines(&mut encoder.encode_descriptor(name, help, None, kind)?)
            };
        metric(
            "llb_frontend_connections",
            "TCP connections and UDP sessions taken, by frontend",
            MetricType::Counter,
            &|to| each(to, &frontends, |traffic| &traffic.connections),
        )?;
        metric(
            "llb_frontend_connections_active",
            "TCP connections and UDP sessions open, by frontend",
            MetricType::Gauge,
            &|to| each(to, &frontends, |traffic| &traffic.active),
        )?;
        metric("llb_frontend_bytes", "Payload relayed, by frontend", MetricType::Counter, &|to| {
            each_labelled(to, &frontends, "direction", |traffic| by_direction(&traffic.bytes))
        })?;
        metric(
            "llb_frontend_refusals",
            "Refused by llb itself, by frontend and reason",
            MetricType::Counter,
            &|to| {
                each_labelled(to, &frontends, "reason", |traffic| {
                    Refusal::ALL.map(|reason| (reason.label(), traffic.refusals(reason)))
                })
            },
        )?;
        metric(
            "llb_frontend_connect_seconds",
            "Time until a backend accepted, by frontend",
            MetricType::Histogram,
            &|to| each(to, &frontends, |traffic| &traffic.connect_time),
        )?;
        metric(
            "llb_frontend_connection_seconds",
            "Time that TCP connections were open, by frontend",
            MetricType::Histogram,
            &|to| each(to, &frontends, |traffic| &traffic.duration),
        )?;
        metric(
            "llb_backend_connections",
            "TCP connections and UDP sessions, by backend",
            MetricType::Counter,
            &|to| each(to, &backends, |traffic| &traffic.connections),
        )?;
        metric(
            "llb_backend_connections_active",
            "TCP connections and UDP sessions open, by backend",
            MetricType::Gauge,
            &|to| each(to, &backends, |traffic| &traffic.active),
        )?;
        metric("llb_backend_failures", "Failed attempts to reach a backend", MetricType::Counter, &|to| {
            each(to, &backends, |traffic| &traffic.failures)
        })?;
        metric("llb_backend_bytes", "Payload relayed, by backend", MetricType::Counter, &|to| {
            each_labelled(to, &backends, "direction", |traffic| by_direction(&traffic.bytes))
        })?;
        metric(
            "llb_backend_connect_smoothed_seconds",
            "Time until a backend accepted, smoothed over its connections",
            MetricType::Gauge,
            &|to| each(to, &backends, |traffic| traffic.connect_time.gauge()),
        )?;
        metric(
            "llb_backend_round_trip_smoothed_seconds",
            "Round trip time to a backend, as the kernel has it when a connection ends, smoothed over its connections",
            MetricType::Gauge,
            &|to| each(to, &backends, |traffic| traffic.round_trip.gauge()),
        )
    }
}

fn names(key: Option<(&ServiceName, &Frontend)>) -> Labels {
    let (service, frontend) = match key {
        Some((service, frontend)) => (service.to_string(), frontend.to_string()),
        None => (OTHERS.to_owned(), OTHERS.to_owned()),
    };
    vec![("service", service), ("frontend", frontend)]
}

fn each<T, M: EncodeMetric>(
    to: &mut MetricEncoder<'_>,
    entries: &[(Labels, Arc<T>)],
    metric: impl Fn(&T) -> &M,
) -> fmt::Result {
    entries.iter().try_for_each(|(labels, entry)| metric(entry).encode(to.encode_family(labels)?))
}

/// As [`each`], with one label more.
fn each_labelled<'a, T, const N: usize>(
    to: &mut MetricEncoder<'_>,
    entries: &'a [(Labels, Arc<T>)],
    label: &'static str,
    metrics: impl Fn(&'a T) -> [(&'static str, &'a Counter); N],
) -> fmt::Result {
    for (labels, entry) in entries {
        for (value, counter) in metrics(entry) {
            let mut labels = labels.clone();
            labels.push((label, value.to_owned()));
            counter.encode(to.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn by_direction(bytes: &PerDirection) -> [(&'static str, &Counter); 2] {
    [("forward", &bytes.forward), ("reply", &bytes.reply)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Port, Protocol};

    fn frontend(port: i64) -> Frontend {
        Frontend { vip: [192, 0, 2, 1].into(), port: Port::new(port).unwrap(), protocol: Protocol::Tcp }
    }

    #[test]
    fn series_have_names_and_end_with_what_they_count() {
        let mut registry = Registry::default();
        let traffic = Traffic::register(&mut registry);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let service = ServiceName::new("default", "web");
        let web = traffic.of_frontend(&service, frontend(80));
        web.connections.inc();
        web.bytes.reply.inc_by(7);
        web.refusals(Refusal::Limit).inc();
        web.connect_time.observe(0.5);
        let address = "198.51.100.1:8080".parse().unwrap();
        let backend = traffic.of_backend(&service, frontend(80), Backend { address });
        backend.failures.inc();
        backend.round_trip.observe(Duration::from_millis(250));
        assert!(Arc::ptr_eq(&web, &traffic.of_frontend(&service, frontend(80))));
        let names = "service=\"default/web\",frontend=\"192.0.2.1:80/TCP\"".to_owned();
        let found = text();
        for line in [
            format!("llb_frontend_connections_total{{{names}}} 1"),
            format!("llb_frontend_bytes_total{{{names},direction=\"reply\"}} 7"),
            format!("llb_frontend_refusals_total{{{names},reason=\"limit\"}} 1"),
            format!("llb_frontend_connect_seconds_count{{{names}}} 1"),
            format!("llb_backend_failures_total{{{names},backend=\"198.51.100.1:8080\"}} 1"),
            format!("llb_backend_round_trip_smoothed_seconds{{{names},backend=\"198.51.100.1:8080\"}} 0.25"),
        ] {
            assert!(found.lines().any(|other| other == line), "{line} is missing in\n{found}");
        }
        drop((web, backend));
        assert!(!text().contains("default/web"));
    }

    #[test]
    fn beyond_the_most_all_others_share_one() {
        let book = Book::<u32, BackendTraffic>::new(2);
        let (first, _second) = (book.of(1), book.of(2));
        assert!(Arc::ptr_eq(&book.of(3), &book.others));
        drop(first);
        assert!(!Arc::ptr_eq(&book.of(3), &book.others), "there is room again");
    }
}
