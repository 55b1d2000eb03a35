// SPDX-License-Identifier: Apache-2.0
//! Shows those counters of `traffic.rs` as metrics that only the relay has, with labels for the Service, the frontend and
//! the backend. Metrics that all planes have are in `observe/exposition.rs`.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use super::metrics::Refusal;
use super::traffic::{BackendTraffic, FrontendTraffic, Traffic};
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

/// A frontend with its refusals, in the order of [`Refusal::ALL`].
struct FrontendRow {
    labels: Labels,
    traffic: Arc<FrontendTraffic>,
    refusals: [u64; Refusal::ALL.len()],
}

impl Collector for TrafficCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut output = Output(encoder);
        encode_frontends(&mut output, &self.frontends())?;
        encode_backends(&mut output, &self.backends())
    }
}

impl TrafficCollector {
    /// The last row is the sum of those without series of their own; its entry has their histograms.
    fn frontends(&self) -> Vec<FrontendRow> {
        let mut hidden = [0; Refusal::ALL.len()];
        let mut rows = Vec::new();
        for (key, traffic) in self.0.frontends() {
            let refusals = Refusal::ALL.map(|reason| traffic.refusals(reason).get());
            if traffic.is_hidden() {
                hidden.iter_mut().zip(refusals).for_each(|(sum, own)| *sum += own);
                continue;
            }
            let labels = frontend_labels(key.as_ref().map(|(service, frontend)| (service, frontend)));
            rows.push(FrontendRow { labels: with_plane(labels), traffic, refusals });
        }
        if let Some(others) = rows.last_mut() {
            others.refusals.iter_mut().zip(hidden).for_each(|(sum, hidden)| *sum += hidden);
        }
        rows
    }

    /// Those that have series of their own: times of several backends make no sense together.
    fn backends(&self) -> Vec<(Labels, Arc<BackendTraffic>)> {
        let row = |(key, traffic): (Option<_>, Arc<BackendTraffic>)| {
            let (service, frontend, backend): (ServiceName, Frontend, crate::model::Backend) = key?;
            let mut labels = frontend_labels(Some((&service, &frontend)));
            labels.push(("backend", backend.to_string()));
            (!traffic.is_hidden).then(|| (with_plane(labels), traffic))
        };
        self.0.backends().into_iter().filter_map(row).collect()
    }
}

fn encode_frontends(output: &mut Output<'_>, frontends: &[FrontendRow]) -> fmt::Result {
    let help = "Connections and datagrams refused by llb itself, by frontend and reason";
    let mut metric = output.0.encode_descriptor("llb_frontend_refusals", help, None, MetricType::Counter)?;
    for row in frontends {
        for (reason, count) in Refusal::ALL.into_iter().zip(row.refusals) {
            let labels = [&row.labels[..], &[("reason", reason.label().to_owned())]].concat();
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
    }
    let rows: Vec<_> = frontends.iter().map(|row| (row.labels.clone(), Arc::clone(&row.traffic))).collect();
    output.metric(
        "llb_frontend_connect_seconds",
        "Time until a backend accepted, by frontend",
        MetricType::Histogram,
        &rows,
        |traffic| &traffic.connect_time,
    )?;
    output.metric(
        "llb_frontend_connection_seconds",
        "Time that TCP connections were open, by frontend",
        MetricType::Histogram,
        &rows,
        |traffic| &traffic.duration,
    )
}

fn encode_backends(output: &mut Output<'_>, backends: &[(Labels, Arc<BackendTraffic>)]) -> fmt::Result {
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
    let [namespace, service, frontend] = match key {
        Some((service, frontend)) => {
            [service.namespace.to_string(), service.name.to_string(), frontend.to_string()]
        }
        None => [OTHERS; 3].map(str::to_owned),
    };
    vec![("namespace", namespace), ("service", service), ("frontend", frontend)]
}

fn with_plane(mut labels: Labels) -> Labels {
    labels.push(("plane", "relay".to_owned()));
    labels
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Backend, Port, Protocol};

    fn frontend(port: i64) -> Frontend {
        Frontend { vip: [192, 0, 2, 1].into(), port: Port::new(port).unwrap(), protocol: Protocol::Tcp }
    }

    fn scraped(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn series_have_labels_and_disappear_with_what_they_count() {
        let mut registry = Registry::default();
        let traffic = register(&mut registry);
        let service = ServiceName::new("default", "web");
        let web = traffic.of_frontend(&service, frontend(80));
        web.refusals(Refusal::Limit).inc();
        web.connect_time.observe(0.5);
        let address = "198.51.100.1:8080".parse().unwrap();
        let backend = traffic.of_backend(&service, frontend(80), Backend { address });
        backend.round_trip.observe(Duration::from_millis(250));
        assert!(Arc::ptr_eq(&web, &traffic.of_frontend(&service, frontend(80))));
        let names = "namespace=\"default\",service=\"web\",frontend=\"192.0.2.1:80/TCP\"";
        let of_backend = format!("{names},backend=\"198.51.100.1:8080\",plane=\"relay\"");
        let found = scraped(&registry);
        for line in [
            format!("llb_frontend_refusals_total{{{names},plane=\"relay\",reason=\"limit\"}} 1"),
            format!("llb_frontend_connect_seconds_count{{{names},plane=\"relay\"}} 1"),
            format!("llb_backend_round_trip_smoothed_seconds{{{of_backend}}} 0.25"),
        ] {
            assert!(found.lines().any(|other| other == line), "{line} is missing in\n{found}");
        }
        drop((web, backend));
        assert!(!scraped(&registry).contains("namespace=\"default\""));
    }

    #[test]
    fn the_shared_series_of_many_frontends_never_go_down() {
        let mut registry = Registry::default();
        let traffic = register(&mut registry);
        let service = ServiceName::new("default", "web");
        let shown: Vec<_> = (1..=1_000).map(|port| traffic.of_frontend(&service, frontend(port))).collect();
        let hidden = traffic.of_frontend(&service, frontend(2_000));
        assert!(hidden.is_hidden() && shown.iter().all(|entry| !entry.is_hidden()));
        hidden.refusals(Refusal::Limit).inc_by(5);
        hidden.connect_time.observe(0.5);
        let names = "namespace=\"others\",service=\"others\",frontend=\"others\",plane=\"relay\"";
        let expected = [
            format!("llb_frontend_refusals_total{{{names},reason=\"limit\"}} 5"),
            format!("llb_frontend_connect_seconds_count{{{names}}} 1"),
        ];
        let has_all = |text: String| expected.iter().all(|line| text.lines().any(|found| found == line));
        assert!(has_all(scraped(&registry)));
        drop(hidden);
        assert!(has_all(scraped(&registry)));
    }
}
