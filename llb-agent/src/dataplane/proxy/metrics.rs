// SPDX-License-Identifier: Apache-2.0
//! The totals of the proxy plane. Labels are closed enums, never addresses.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::model::Protocol;

/// Every field is one metric; [`Metrics::register`] gives it its name.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) connections: Counter,
    pub(super) connections_active: Gauge,
    /// Seconds until a backend accepted, with the failed attempts before it.
    pub(super) connect_time: Histogram,
    /// Seconds that a connection was open.
    pub(super) duration: Histogram,
    pub(super) bytes: PerDirection,
    pub(super) udp_sessions_active: Gauge,
    pub(super) udp_datagrams: PerDirection,
    /// Frontends of the packet plane with a listener of this one, and those that lack it.
    pub(super) beside_packets: Gauge,
    pub(super) beside_packets_missing: Gauge,
    refusals: Labelled<2>,
    connect_failures: Labelled<1>,
    accept_errors: Labelled<1>,
}

/// Counters by `N` labels (name and value). The values come from the enums below.
type Labelled<const N: usize> = Family<[(&'static str, &'static str); N], Counter>;

impl Metrics {
    /// Puts all metrics of the plane into `registry`. The registry adds `_total` to counters.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::new();
        registry.register(
            "llb_relay_connections",
            "TCP connections accepted to be relayed",
            metrics.connections.clone(),
        );
        registry.register(
            "llb_relay_connections_active",
            "TCP connections accepted and not yet ended",
            metrics.connections_active.clone(),
        );
        registry.register(
            "llb_relay_connect_seconds",
            "Time until a backend accepted a TCP connection, failed attempts included",
            metrics.connect_time.clone(),
        );
        registry.register(
            "llb_relay_connection_seconds",
            "Time that TCP connections were open",
            metrics.duration.clone(),
        );
        registry.register("llb_relay_bytes", "Bytes of TCP payload relayed", metrics.bytes.family.clone());
        registry.register(
            "llb_relay_udp_sessions_active",
            "UDP sessions: client addresses that have a backend",
            metrics.udp_sessions_active.clone(),
        );
        registry.register(
            "llb_relay_beside_packets",
            "Frontends of the packet plane for which the relay listens too, for clients that no program sees",
            metrics.beside_packets.clone(),
        );
        registry.register(
            "llb_relay_beside_packets_missing",
            "Frontends of the packet plane for which the relay can't listen",
            metrics.beside_packets_missing.clone(),
        );
        let datagrams = metrics.udp_datagrams.family.clone();
        registry.register("llb_relay_udp_datagrams", "UDP datagrams relayed", datagrams);
        registry.register(
            "llb_relay_refusals",
            "Connections reset and datagrams dropped by llb itself, by reason",
            metrics.refusals.clone(),
        );
        registry.register(
            "llb_relay_connect_failures",
            "Backends that could not be connected to, or where nothing listens",
            metrics.connect_failures.clone(),
        );
        registry.register(
            "llb_relay_accept_errors",
            "Errors of accepting a connection or receiving a datagram, by kind",
            metrics.accept_errors.clone(),
        );
        metrics
    }

    fn new() -> Self {
        Self {
            connections: Counter::default(),
            connections_active: Gauge::default(),
            connect_time: connect_times(),
            duration: durations(),
            bytes: PerDirection::default(),
            udp_sessions_active: Gauge::default(),
            udp_datagrams: PerDirection::default(),
            beside_packets: Gauge::default(),
            beside_packets_missing: Gauge::default(),
            refusals: Labelled::default(),
            connect_failures: Labelled::default(),
            accept_errors: Labelled::default(),
        }
    }

    /// The counter of `reason`.
    pub(super) fn refusals(&self, protocol: Protocol, reason: Refusal) -> Counter {
        self.refusals
            .get_or_create_owned(&[("protocol", protocol_label(protocol)), ("reason", reason.label())])
    }

    /// The counter of failed attempts to reach a backend.
    pub(super) fn connect_failures(&self, protocol: Protocol) -> Counter {
        self.connect_failures.get_or_create_owned(&[("protocol", protocol_label(protocol))])
    }

    /// The counter of `kind`.
    pub(super) fn accept_errors(&self, kind: AcceptErrorKind) -> Counter {
        self.accept_errors.get_or_create_owned(&[("kind", kind.label())])
    }
}

/// Buckets from 0.1 ms, for a backend in the same rack, to 26 s.
pub(super) fn connect_times() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 10))
}

/// Buckets from 1 ms, for a single request, to 18 h, for a connection that stays open.
pub(super) fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 14))
}

/// One counter for each direction. They are also kept outside of the family,
/// because each buffer increments one and a look-up takes a lock.
#[derive(Clone, Debug)]
pub(super) struct PerDirection {
    /// From the client to the backend.
    pub(super) forward: Counter,
    /// From the backend to the client.
    pub(super) reply: Counter,
    family: Labelled<1>,
}

impl Default for PerDirection {
    fn default() -> Self {
        let family = Labelled::<1>::default();
        Self {
            forward: family.get_or_create_owned(&[("direction", "forward")]),
            reply: family.get_or_create_owned(&[("direction", "reply")]),
            family,
        }
    }
}

/// Why a connection was reset or a datagram dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refusal {
    /// The limit of open connections or sessions is reached.
    Limit,
    /// The Service's limit of open connections is reached.
    ServiceLimit,
    /// The share of the Service's namespace is used up.
    NamespaceShare,
    /// The client's address is in none of the Service's source ranges.
    SourceRange,
    /// The rule has no backend.
    NoBackend,
    /// None of the backends that were tried could be reached.
    Unreachable,
    /// This machine lacks file descriptors, memory or local ports.
    Resources,
    /// The socket did not take a datagram: its buffer is full, or the datagram
    /// does not fit the path.
    Undeliverable,
}

/// Where an error of accepting or receiving comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AcceptErrorKind {
    /// One connection or datagram was broken already.
    Connection,
    /// This machine lacks file descriptors or memory.
    Resources,
    /// The socket no longer listens.
    Listener,
}

impl Refusal {
    /// Every reason, in the order of the variants.
    pub(super) const ALL: [Self; 8] = [
        Self::Limit,
        Self::ServiceLimit,
        Self::NamespaceShare,
        Self::SourceRange,
        Self::NoBackend,
        Self::Unreachable,
        Self::Resources,
        Self::Undeliverable,
    ];

    /// The value of the label `reason`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::ServiceLimit => "service_limit",
            Self::NamespaceShare => "namespace_share",
            Self::SourceRange => "source_range",
            Self::NoBackend => "no_backend",
            Self::Unreachable => "unreachable",
            Self::Resources => "resources",
            Self::Undeliverable => "undeliverable",
        }
    }
}

impl AcceptErrorKind {
    fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Resources => "resources",
            Self::Listener => "listener",
        }
    }
}

fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_as_documented() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.bytes.forward.inc_by(7);
        metrics.connect_time.observe(0.5);
        metrics.duration.observe(0.0005);
        metrics.refusals(Protocol::Tcp, Refusal::Limit).inc();
        metrics.connect_failures(Protocol::Udp).inc();
        metrics.accept_errors(AcceptErrorKind::Resources).inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "llb_relay_connections_total 0",
            "llb_relay_connections_active 0",
            "llb_relay_connect_seconds_count 1",
            "llb_relay_connection_seconds_bucket{le=\"0.001\"} 1",
            "llb_relay_bytes_total{direction=\"forward\"} 7",
            "llb_relay_bytes_total{direction=\"reply\"} 0",
            "llb_relay_udp_sessions_active 0",
            "llb_relay_udp_datagrams_total{direction=\"forward\"} 0",
            "llb_relay_refusals_total{protocol=\"tcp\",reason=\"limit\"} 1",
            "llb_relay_connect_failures_total{protocol=\"udp\"} 1",
            "llb_relay_accept_errors_total{kind=\"resources\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
