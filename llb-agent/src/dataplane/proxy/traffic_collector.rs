// SPDX-License-Identifier: Apache-2.0
//! Shows the counters of `traffic.rs` as metrics with labels for the Service,
//! the frontend and the backend.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::metrics::{PerDirection, Refusal};
use super::traffic::{BackendKey, BackendTraffic, FrontendKey, FrontendTraffic, Traffic};
use crate::model::{Frontend, ServiceName};

/// The label value of the shared series.
const OTHERS: &str = "others";

/// New counters, which appear in `registry` from now on.
pub(super) fn register(registry: &mut Registry) -> Traffic {
    let traffic = Traffic::default();
    registry.register_collector(Box::new(TrafficCollector(traffic.clone())));
    traffic
}

#[derive(Debug)]
struct TrafficCollector(Traffic);

type Labels = Vec<(&'static str, String)>;

impl Collector for TrafficCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut output = Output(encoder);
        encode_frontends(&mut output, &self.frontends())?;
        encode_backends(&mut output, &self.backends())
    }
}

impl TrafficCollector {
    fn frontends(&self) -> Vec<(Labels, Arc<FrontendTraffic>)> {
        let labelled = |(key, entry): (Option<FrontendKey>, _)| {
            (frontend_labels(key.as_ref().map(|(service, frontend)| (service, frontend))), entry)
        };
        self.0.frontends().into_iter().map(labelled).collect()
    }

    fn backends(&self) -> Vec<(Labels, Arc<BackendTraffic>)> {
        let labelled = |(key, entry): (Option<BackendKey>, _)| {
            let mut labels = frontend_labels(key.as_ref().map(|(service, frontend, _)| (service, frontend)));
            let backend = key.map_or_else(|| OTHERS.to_owned(), |(_, _, backend)| backend.to_string());
            labels.push(("backend", backend));
            (labels, entry)
        };
        self.0.backends().into_iter().map(labelled).collect()
    }
}

fn encode_frontends(output: &mut Output<'_>, frontends: &[(Labels, Arc<FrontendTraffic>)]) -> fmt::Result {
    output.metric(
        "llb_frontend_connections",
        "TCP connections and UDP sessions accepted, by frontend",
        MetricType::Counter,
        frontends,
        |traffic| &traffic.connections,
    )?;
    output.metric(
        "llb_frontend_connections_active",
        "TCP connections and UDP sessions open, by frontend",
        MetricType::Gauge,
        frontends,
        |traffic| &traffic.active,
    )?;
    output.counters_by(
        "direction",
        "llb_frontend_bytes",
        "Payload relayed, by frontend",
        frontends,
        |traffic| by_direction(&traffic.bytes),
    )?;
    output.counters_by(
        "reason",
        "llb_frontend_refusals",
        "Connections and datagrams refused by llb itself, by frontend and reason",
        frontends,
        |traffic| Refusal::ALL.map(|reason| (reason.label(), traffic.refusals(reason))),
    )?;
    output.metric(
        "llb_frontend_connect_seconds",
        "Time until a backend accepted, by frontend",
        MetricType::Histogram,
        frontends,
        |traffic| &traffic.connect_time,
    )?;
    output.metric(
        "llb_frontend_connection_seconds",
        "Time that TCP connections were open, by frontend",
        MetricType::Histogram,
        frontends,
        |traffic| &traffic.duration,
    )
}

fn encode_backends(output: &mut Output<'_>, backends: &[(Labels, Arc<BackendTraffic>)]) -> fmt::Result {
    output.metric(
        "llb_backend_connections",
        "TCP connections and UDP sessions, by backend",
        MetricType::Counter,
        backends,
        |traffic| &traffic.connections,
    )?;
    output.metric(
        "llb_backend_connections_active",
        "TCP connections and UDP sessions open, by backend",
        MetricType::Gauge,
        backends,
        |traffic| &traffic.active,
    )?;
    output.metric(
        "llb_backend_failures",
        "Failed attempts to reach a backend",
        MetricType::Counter,
        backends,
        |traffic| &traffic.failures,
    )?;
    output.counters_by(
        "direction",
        "llb_backend_bytes",
        "Payload relayed, by backend",
        backends,
        |traffic| by_direction(&traffic.bytes),
    )?;
    output.metric(
        "llb_backend_connect_smoothed_seconds",
        "Time until a backend accepted, smoothed over its connections",
        MetricType::Gauge,
        backends,
        |traffic| traffic.connect_time.gauge(),
    )?;
    output.metric(
        "llb_backend_round_trip_smoothed_seconds",
        "Round trip time to a backend, as the kernel has it when a connection ends, smoothed over its connections",
        MetricType::Gauge,
        backends,
        |traffic| traffic.round_trip.gauge(),
    )
}

fn frontend_labels(key: Option<(&ServiceName, &Frontend)>) -> Labels {
    let (service, frontend) = match key {
        Some((service, frontend)) => (service.to_string(), frontend.to_string()),
        None => (OTHERS.to_owned(), OTHERS.to_owned()),
    };
    vec![("service", service), ("frontend", frontend)]
}

fn by_direction(bytes: &PerDirection) -> [(&'static str, &Counter); 2] {
    [("forward", &bytes.forward), ("reply", &bytes.reply)]
}

/// Writes whole metrics: name, help and one series for each entry.
struct Output<'a>(DescriptorEncoder<'a>);

impl Output<'_> {
    fn metric<T, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        entries: &[(Labels, Arc<T>)],
        metric: impl Fn(&T) -> &M,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        entries.iter().try_for_each(|(labels, entry)| metric(entry).encode(encoder.encode_family(labels)?))
    }

    /// Several counters for each entry, told apart by one more label.
    fn counters_by<'t, T, const N: usize>(
        &mut self,
        label: &'static str,
        name: &str,
        help: &str,
        entries: &'t [(Labels, Arc<T>)],
        counters: impl Fn(&'t T) -> [(&'static str, &'t Counter); N],
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, entry) in entries {
            for (value, counter) in counters(entry) {
                let mut labels = labels.clone();
                labels.push((label, value.to_owned()));
                counter.encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Backend, Port, Protocol};

    fn frontend(port: i64) -> Frontend {
        Frontend { vip: [192, 0, 2, 1].into(), port: Port::new(port).unwrap(), protocol: Protocol::Tcp }
    }

    #[test]
    fn series_have_labels_and_disappear_with_what_they_count() {
        let mut registry = Registry::default();
        let traffic = register(&mut registry);
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
}
