// SPDX-License-Identifier: Apache-2.0
//! What sockmap counts. Bytes are not here: the connection counts them, whether
//! the relay or the kernel moved them.

use std::fmt;
use std::sync::Weak;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::maps::Maps;

/// Counters by one label.
type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// Every field is one metric, declared in [`Metrics::register`].
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) handovers: Counter,
    pub(super) pairs: Gauge,
    pub(super) refusals: Counter,
    pub(super) torn: Counter,
    returns: Labelled,
}

/// Why a pair came back to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReturnReason {
    /// A socket has received FIN or has an error.
    Ended,
    /// The program left a stream to the agent: the other socket had no room, or
    /// too much waited for the kernel's worker.
    Switched,
    /// Many large segments in a row: splice(2) is faster.
    Bulk,
    /// Bytes waited and the kernel did not move them.
    Stalled,
    /// A socket was no longer established when the kernel should begin.
    Late,
}

impl ReturnReason {
    fn label(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Switched => "no_room",
            Self::Bulk => "bulk",
            Self::Stalled => "stalled",
            Self::Late => "late",
        }
    }
}

impl Metrics {
    /// Puts all metrics into `registry`.
    pub(super) fn register(registry: &mut Registry, maps: Weak<Maps>) -> Self {
        let metrics = Self::default();
        registry.register(
            "llb_sockmap_handovers",
            "Connections whose bytes the kernel began to move",
            metrics.handovers.clone(),
        );
        registry.register(
            "llb_sockmap_pairs",
            "Connections whose bytes the kernel moves now",
            metrics.pairs.clone(),
        );
        registry.register(
            "llb_sockmap_returns",
            "Connections that came back to user space, by reason",
            metrics.returns.clone(),
        );
        registry.register(
            "llb_sockmap_refusals",
            "Connections that the kernel did not take: a map was full, or a socket was not established",
            metrics.refusals.clone(),
        );
        registry.register(
            "llb_sockmap_torn",
            "Connections reset because bytes were taken from a socket and not passed on",
            metrics.torn.clone(),
        );
        registry.register_collector(Box::new(Entries(maps)));
        metrics
    }

    /// The counter of `reason`.
    pub(super) fn returns(&self, reason: ReturnReason) -> Counter {
        self.returns.get_or_create_owned(&[("reason", reason.label())])
    }
}

/// Counts the entries of the maps at each scrape.
#[derive(Debug)]
struct Entries(Weak<Maps>);

impl Collector for Entries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(maps) = self.0.upgrade() else { return Ok(()) };
        let gauge = ConstGauge::new(i64::try_from(maps.entries()).unwrap_or(i64::MAX));
        let help = "Entries of all maps of sockets and streams";
        gauge.encode(encoder.encode_descriptor("llb_sockmap_entries", help, None, gauge.metric_type())?)
    }
}
