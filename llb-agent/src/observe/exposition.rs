// SPDX-License-Identifier: Apache-2.0
//! Traffic, and the state of backends, as metrics with the same names for all planes. Metrics that only one plane has are
//! registered by that plane.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::differences::{Health, backends, health};
use super::meter::{CountedBy, Meter, Of, Part};
use super::process::ProcessCollector;
use super::sample::SharedMeter;
use crate::config::REVISION;
use crate::dataplane::Counting;
use crate::model::{Counted, Frontend, PlaneKind, ServiceName};
use crate::reconcile::Report;

/// With more frontends than the first number, `llb_frontend_backends_up` shows only those without a backend that is up. With more
/// backends of frontends than the second number, `llb_backend_up` shows only those that are not up.
const UP_SHOWN: [usize; 2] = [1_000, 5_000];

/// The label value of the shared series.
const OTHERS: &str = "others";

/// Reads the meter and the last report at each scrape.
struct TrafficCollector {
    meter: SharedMeter,
    counting: Counting,
    report: watch::Receiver<Arc<Report>>,
}

/// Adds the metrics to `registry`.
pub(crate) fn register(
    registry: &mut Registry,
    meter: SharedMeter,
    counting: Counting,
    report: watch::Receiver<Arc<Report>>,
) {
    registry.register_collector(Box::new(TrafficCollector { meter, counting, report }));
    registry.register_collector(Box::new(ProcessCollector));
}

impl fmt::Debug for TrafficCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficCollector")
    }
}

type Labels = Vec<(&'static str, String)>;
/// Values with their labels.
type Rows<T> = Vec<(Labels, T)>;

impl Collector for TrafficCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A scrape gets what was counted until now, not only until the last sample.
        self.meter.catch_up(&self.counting);
        let report = Arc::clone(&self.report.borrow());
        let (frontends, backends, left_out) = {
            let meter = self.meter.read();
            (frontend_rows(&meter, &report), backend_rows(&meter, &report), meter.left_out())
        };
        encode_frontends(&mut encoder, &frontends)?;
        encode_backends(&mut encoder, &backends)?;
        let help = "Counters without rates and series of their own, because there are too many";
        let metric = encoder.encode_descriptor("llb_counters_left_out", help, None, MetricType::Gauge)?;
        ConstGauge::new(left_out as u64).encode(metric)?;
        encode_report(&mut encoder, &report)
    }
}

fn service_of<'a>(report: &'a Report, frontend: &Frontend) -> Option<&'a ServiceName> {
    let observed = report.observed.frontends.get(frontend).and_then(|status| status.rule.as_ref());
    observed.or_else(|| report.desired.frontends.get(frontend)).map(|rule| &rule.service)
}

/// The names are empty while the Service is not known.
fn labels_of(report: &Report, frontend: &Frontend) -> Labels {
    let service = service_of(report, frontend);
    let name = |of: fn(&ServiceName) -> &str| service.map(of).unwrap_or_default().to_owned();
    vec![
        ("namespace", name(|service| &service.namespace)),
        ("service", name(|service| &service.name)),
        ("frontend", frontend.to_string()),
    ]
}

fn frontend_rows(meter: &Meter, report: &Report) -> Vec<(Labels, Part)> {
    let shown = meter.shown_frontends().flat_map(|(frontend, flow)| {
        let part = move |plane: CountedBy| {
            let mut labels = labels_of(report, frontend);
            labels.push(("plane", plane.name().to_owned()));
            Some((labels, *flow.of(plane, meter.sample())?))
        };
        CountedBy::ALL.into_iter().filter_map(part)
    });
    shown.chain(others(meter, Of::Frontends, &["namespace", "service", "frontend"])).collect()
}

fn backend_rows(meter: &Meter, report: &Report) -> Vec<(Labels, Part)> {
    let shown = meter.shown_backends().flat_map(|((frontend, backend), flow)| {
        let part = move |plane: CountedBy| {
            let mut labels = labels_of(report, frontend);
            labels.extend([("backend", backend.to_string()), ("plane", plane.name().to_owned())]);
            Some((labels, *flow.of(plane, meter.sample())?))
        };
        CountedBy::ALL.into_iter().filter_map(part)
    });
    shown.chain(others(meter, Of::Backends, &["namespace", "service", "frontend", "backend"])).collect()
}

fn others(meter: &Meter, of: Of, names: &[&'static str]) -> Vec<(Labels, Part)> {
    let row = |plane: CountedBy| {
        let mut labels: Labels = names.iter().map(|name| (*name, OTHERS.to_owned())).collect();
        labels.push(("plane", plane.name().to_owned()));
        Some((labels, meter.others(of, plane)?))
    };
    CountedBy::ALL.into_iter().filter_map(row).collect()
}

/// Writes a whole metric: one series for each row.
fn metric<L: Borrow<Labels>, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    rows: impl IntoIterator<Item = (L, M)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    rows.into_iter().try_for_each(|(labels, value)| value.encode(metric.encode_family(labels.borrow())?))
}

fn encode_frontends(encoder: &mut DescriptorEncoder<'_>, rows: &[(Labels, Part)]) -> fmt::Result {
    let help = "TCP connections, UDP sessions and flows that began, by frontend";
    metric(encoder, "llb_frontend_connections", help, MetricType::Counter, counted(rows, |of| of.new))?;
    let help = "TCP connections, UDP sessions and flows that are open, by frontend";
    metric(encoder, "llb_frontend_connections_active", help, MetricType::Gauge, active(rows))?;
    let help =
        "Bytes from and to clients, by frontend: payload if plane is relay, whole IP packets if it is packet";
    metric(encoder, "llb_frontend_bytes", help, MetricType::Counter, directions(rows, bytes))
}

fn encode_backends(encoder: &mut DescriptorEncoder<'_>, rows: &[(Labels, Part)]) -> fmt::Result {
    let help = "TCP connections, UDP sessions and flows that began, by backend";
    metric(encoder, "llb_backend_connections", help, MetricType::Counter, counted(rows, |of| of.new))?;
    let help = "TCP connections, UDP sessions and flows that are open, by backend";
    metric(encoder, "llb_backend_connections_active", help, MetricType::Gauge, active(rows))?;
    let help =
        "Bytes from and to clients, by backend: payload if plane is relay, whole IP packets if it is packet";
    metric(encoder, "llb_backend_bytes", help, MetricType::Counter, directions(rows, bytes))?;
    let help = "Packets forwarded to and from a backend";
    let is_packet = |labels: &Labels| labels.contains(&("plane", CountedBy::Packet.name().to_owned()));
    let packets = |part: &Part| [part.totals.packets_in, part.totals.packets_out];
    let packets = directions(rows, packets).filter(|(labels, _)| is_packet(labels));
    metric(encoder, "llb_backend_packets", help, MetricType::Counter, packets)?;
    let help = "Failed attempts to reach a backend; the packet plane counts at most one a second";
    metric(encoder, "llb_backend_failures", help, MetricType::Counter, counted(rows, |of| of.failures))
}

fn counted(
    rows: &[(Labels, Part)],
    number: fn(&Counted) -> u64,
) -> impl Iterator<Item = (&Labels, ConstCounter<u64>)> {
    rows.iter().map(move |(labels, part)| (labels, ConstCounter::new(number(&part.totals))))
}

fn active(rows: &[(Labels, Part)]) -> impl Iterator<Item = (&Labels, ConstGauge<u64>)> {
    rows.iter().map(|(labels, part)| (labels, ConstGauge::new(part.active)))
}

/// Each row twice: from clients and to them.
fn directions(
    rows: &[(Labels, Part)],
    numbers: impl Fn(&Part) -> [u64; 2],
) -> impl Iterator<Item = (Labels, ConstCounter<u64>)> {
    rows.iter().flat_map(move |(labels, part)| {
        let [forward, reply] = numbers(part);
        let both = [("forward", forward), ("reply", reply)];
        both.map(|(direction, count)| {
            ([&labels[..], &[("direction", direction.to_owned())]].concat(), ConstCounter::new(count))
        })
    })
}

fn bytes(part: &Part) -> [u64; 2] {
    [part.totals.bytes_in, part.totals.bytes_out]
}

fn encode_report(encoder: &mut DescriptorEncoder<'_>, report: &Report) -> fmt::Result {
    let (frontends, backends) = up_rows(report);
    let help = "Backends of a frontend that are neither dead nor fail their health check";
    let frontends = frontends.into_iter().map(|(labels, count)| (labels, ConstGauge::new(count as u64)));
    metric(encoder, "llb_frontend_backends_up", help, MetricType::Gauge, frontends)?;
    let help = "0 if a backend is dead or fails its health check, else 1";
    let backends = backends.into_iter().map(|(labels, is_up)| (labels, ConstGauge::new(u64::from(is_up))));
    metric(encoder, "llb_backend_up", help, MetricType::Gauge, backends)?;
    let help = "The VIPs that Services have or are to get; always 1";
    let vips = vip_rows(report).into_iter().map(|labels| (labels, ConstGauge::new(1_u64)));
    metric(encoder, "llb_vip_info", help, MetricType::Gauge, vips)?;
    let help = "What runs; always 1";
    let mut metric = encoder.encode_descriptor("llb_build_info", help, None, MetricType::Gauge)?;
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("revision", REVISION)];
    ConstGauge::new(1_u64).encode(metric.encode_family(&labels)?)
}

/// How many backends of each frontend are up, and which.
fn up_rows(report: &Report) -> (Rows<usize>, Rows<bool>) {
    let (mut frontends, mut rows) = (Vec::new(), Vec::new());
    let [most_frontends, most_backends] = UP_SHOWN;
    for (frontend, status) in &report.observed.frontends {
        let plane = match status.placement.plane {
            PlaneKind::Packet => CountedBy::Packet,
            PlaneKind::Sockmap | PlaneKind::Userspace => CountedBy::Relay,
        };
        let mut count = 0;
        for backend in backends(report, frontend) {
            let is_up = matches!(health(report, frontend, &backend), Health::Up);
            count += usize::from(is_up);
            if !is_up || rows.len() < most_backends {
                let mut labels = labels_of(report, frontend);
                labels.extend([("backend", backend.to_string()), ("plane", plane.name().to_owned())]);
                rows.push((labels, is_up));
            }
        }
        if count == 0 || frontends.len() < most_frontends {
            frontends.push((labels_of(report, frontend), count));
        }
    }
    (frontends, rows)
}

fn vip_rows(report: &Report) -> Vec<Labels> {
    let addresses = report.observed.addresses.keys();
    let links: BTreeMap<IpAddr, &str> = addresses.map(|key| (key.address, key.link.as_str())).collect();
    let mut rows = Vec::new();
    for (service, status) in &report.desired.statuses {
        let published = report.observed.statuses.get(service);
        for vip in status.addresses() {
            let is_published =
                published.is_some_and(|status| status.vips.iter().any(|other| other.ip == vip));
            rows.push(vec![
                ("namespace", service.namespace.to_string()),
                ("service", service.name.to_string()),
                ("vip", vip.to_string()),
                ("link", links.get(&vip).copied().unwrap_or_default().to_owned()),
                ("published", is_published.to_string()),
            ]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::model::{
        AddressKey, Backend, BackendFailure, Counted, Counter, Counts, FailureReason, FrontendStatus, Phase,
        Port, Protocol, PublishedStatus, PublishedVip, Rule, State, Terms, Weight,
    };

    fn frontend() -> Frontend {
        Frontend { vip: [192, 0, 2, 100].into(), port: Port::new(80).unwrap(), protocol: Protocol::Tcp }
    }

    fn backend(octet: u8) -> Backend {
        Backend { address: ([192, 0, 2, octet], 30080).into() }
    }

    fn report() -> Report {
        let backends = [31, 32].map(|octet| (backend(octet), Weight::MIN)).into();
        let rule = Arc::new(Rule::new(ServiceName::new("default", "web"), backends, Terms::default()));
        let mut report = Report::default();
        report.observed.frontends = [(frontend(), FrontendStatus::relayed(rule, Phase::Serving))].into();
        let failure = BackendFailure { why: FailureReason::Refused, since: clock::now_std() };
        report.failed_backends = [(frontend(), [(backend(32), failure)].into())].into();
        report
    }

    fn counts(new: u64) -> Counts {
        let counter = |number, backend| Counter {
            number,
            frontend: frontend(),
            backend,
            counted: Counted { new, bytes_in: 10 * new, failures: 1, packets_out: 2, ..Counted::default() },
            active: 3,
            connect_time: None,
            round_trip: None,
        };
        let relay = vec![counter(8, None), counter(9, Some(backend(31)))];
        Counts { packet: vec![counter(1, Some(backend(32)))], relay, ..Counts::default() }
    }

    fn scraped(counting: Counting, meter: SharedMeter, report: Report) -> String {
        let mut registry = Registry::default();
        let (_sender, receiver) = watch::channel(Arc::new(report));
        registry.register_collector(Box::new(TrafficCollector { meter, counting, report: receiver }));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn all_planes_have_the_same_names_and_a_scrape_is_up_to_date() {
        let meter = SharedMeter::default();
        meter.read().step(Counts::default(), clock::now_std());
        let text = scraped(Counting::new(|| Ok(counts(7))), meter.clone(), report());
        let names = "namespace=\"default\",service=\"web\",frontend=\"192.0.2.100:80/TCP\"";
        let [one, other] = [31, 32].map(|octet| format!("{names},backend=\"192.0.2.{octet}:30080\""));
        for line in [
            format!("llb_frontend_connections_total{{{names},plane=\"packet\"}} 7"),
            format!("llb_frontend_connections_total{{{names},plane=\"relay\"}} 7"),
            format!("llb_frontend_bytes_total{{{names},plane=\"packet\",direction=\"forward\"}} 70"),
            format!("llb_backend_connections_total{{{other},plane=\"packet\"}} 7"),
            format!("llb_backend_connections_active{{{one},plane=\"relay\"}} 3"),
            format!("llb_backend_failures_total{{{one},plane=\"relay\"}} 1"),
            format!("llb_backend_up{{{one},plane=\"relay\"}} 1"),
            format!("llb_backend_up{{{other},plane=\"relay\"}} 0"),
            format!("llb_backend_packets_total{{{other},plane=\"packet\",direction=\"reply\"}} 2"),
            format!("llb_frontend_backends_up{{{names}}} 1"),
            "llb_counters_left_out 0".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let packets = text.lines().filter(|line| line.starts_with("llb_backend_packets_total{"));
        assert!(
            packets.clone().count() == 2 && packets.clone().all(|line| !line.contains("relay")),
            "{text}"
        );
        // What was counted between two samples belongs to the next one.
        meter.read().step(counts(9), clock::now_std() + Duration::from_secs(1));
        let text = scraped(Counting::new(|| Ok(counts(9))), meter, Report::default());
        assert!(text.contains("plane=\"relay\"} 9\n") && !text.contains("default"), "{text}");
    }

    #[test]
    fn a_frontend_says_how_many_backends_are_up_however_many_there_are() {
        let mut report = report();
        let of_port = |port: i64| Frontend { port: Port::new(port).unwrap(), ..frontend() };
        let status = |octets: std::ops::RangeInclusive<u8>| {
            let backends = octets.map(|octet| (backend(octet), Weight::MIN)).collect();
            let rule = Rule::new(ServiceName::new("default", "web"), backends, Terms::default());
            FrontendStatus::relayed(Arc::new(rule), Phase::Serving)
        };
        let ports = 1..=1_000;
        report.observed.frontends = ports.map(|port| (of_port(port), status(1..=10))).collect();
        let none = std::ops::RangeInclusive::new(1, 0);
        report.observed.frontends.insert(of_port(1_001), status(1..=10));
        report.observed.frontends.insert(of_port(1_002), status(none));
        let failure = BackendFailure { why: FailureReason::Refused, since: clock::now_std() };
        report.failed_backends = [(of_port(900), [(backend(3), failure)].into())].into();
        let (frontends, backends) = up_rows(&report);
        let named = |wanted: i64| {
            let name = of_port(wanted).to_string();
            let is_it = |(labels, _): &&(Labels, usize)| labels.iter().any(|(_, value)| *value == name);
            frontends.iter().find(is_it).map(|(_, count)| *count)
        };
        assert_eq!([1, 900, 1_001, 1_002].map(named), [Some(10), Some(9), None, Some(0)]);
        assert_eq!(backends.len(), UP_SHOWN[1] + 1, "beyond the limit only the one that is down");
    }

    #[test]
    fn a_vip_says_whose_it_is_and_where() {
        let mut report = report();
        let vip: IpAddr = [192, 0, 2, 100].into();
        report.observed.addresses = [(AddressKey { link: "eth0".to_owned(), address: vip }, 32)].into();
        let published = PublishedVip { ip: vip, proxy: false, ports: Vec::new() };
        let status = PublishedStatus { vips: [published].into(), ..Default::default() };
        let state =
            State { statuses: [(ServiceName::new("default", "web"), status)].into(), ..Default::default() };
        report.desired = Arc::new(state);
        let text = scraped(Counting::default(), SharedMeter::default(), report);
        let expected = "llb_vip_info{namespace=\"default\",service=\"web\",vip=\"192.0.2.100\",link=\"eth0\",published=\"false\"} 1";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("llb_build_info{version=\"") && text.contains("\",revision=\""), "{text}");
    }
}
