// SPDX-License-Identifier: Apache-2.0
//! The programs' counters as metrics that only the packet plane has, read at each scrape. What all planes count has the same
//! names for all of them: `observe/exposition.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::counting;
use super::shared::Shared;
use crate::model::ServiceName;

/// How many backends have series of their own, so that a scrape stays readable. All others
/// share one series, named [`OTHERS`].
const MOST_BACKENDS: usize = 5_000;
const OTHERS: &str = "others";

/// Reads the counters at each scrape.
#[derive(Debug)]
struct PacketCollector(Arc<Shared>);

/// Adds the counters to `registry`.
pub(super) fn register(shared: &Arc<Shared>, registry: &mut Registry) {
    registry.register_collector(Box::new(PacketCollector(Arc::clone(shared))));
}

/// The packets of one backend of one frontend.
struct Row {
    labels: Vec<(&'static str, String)>,
    packets: [u64; 2],
}

impl Collector for PacketCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_links(&mut encoder)?;
        let help = "Packets forwarded to and from a backend";
        let mut metric = encoder.encode_descriptor("llb_backend_packets", help, None, MetricType::Counter)?;
        for row in self.rows() {
            for (direction, packets) in ["forward", "reply"].into_iter().zip(row.packets) {
                let labels = [&row.labels[..], &[("direction", direction.to_owned())]].concat();
                ConstCounter::new(packets).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Tests of backends to which a connection failed";
        let mut metric =
            encoder.encode_descriptor("llb_packet_backend_tests", help, None, MetricType::Counter)?;
        let tests = self.0.state().tests;
        for (result, count) in tests.all() {
            ConstCounter::new(count).encode(metric.encode_family(&[("result", result)])?)?;
        }
        self.encode_canaries(&mut encoder)?;
        let help = "Packets passed, dropped or noted, by reason";
        let mut metric = encoder.encode_descriptor("llb_packet_reasons", help, None, MetricType::Counter)?;
        for (reason, count) in self.0.state().maps.reasons() {
            ConstCounter::new(count).encode(metric.encode_family(&[("reason", reason.name())])?)?;
        }
        let help = "Copies of later fragments that came before the first one of their packet";
        let mut metric =
            encoder.encode_descriptor("llb_packet_early_fragments", help, None, MetricType::Counter)?;
        for (result, count) in self.0.early().all() {
            ConstCounter::new(count).encode(metric.encode_family(&[("result", result)])?)?;
        }
        self.encode_fill(&mut encoder)
    }
}

impl PacketCollector {
    fn encode_links(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = self.0.counters();
        let mut encode =
            |name, help, unit: Option<&Unit>, value: fn(&llb_common::counters::LinkCounters) -> u64| {
                let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
                for (link, counted) in &counters {
                    let labels = [("link", link.as_str())];
                    ConstCounter::new(value(counted)).encode(metric.encode_family(&labels)?)?;
                }
                Ok(())
            };
        encode("llb_link_packets", "Frames that came in on a link", None, |counted| counted.packets)?;
        encode("llb_link", "Bytes of those frames", Some(&Unit::Bytes), |counted| counted.bytes)
    }

    /// What Nodes answered before they got clients.
    fn encode_canaries(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.0.state();
        let (counts, waiting) = (state.readiness.counts(), state.readiness.waiting());
        drop(state);
        let help = "Canaries sent to Nodes in mode dsr, by what was heard of them";
        let mut metric = encoder.encode_descriptor("llb_packet_canaries", help, None, MetricType::Counter)?;
        for (result, count) in counts.all() {
            ConstCounter::new(count).encode(metric.encode_family(&[("result", result)])?)?;
        }
        let help = "Nodes that get no clients of a frontend in mode dsr yet";
        let metric = encoder.encode_descriptor("llb_packet_waiting_nodes", help, None, MetricType::Gauge)?;
        ConstGauge::new(waiting as u64).encode(metric)
    }

    /// How full those maps are that have a limit.
    fn encode_fill(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let maps = counting::fill(&self.0);
        let help = "Entries of the packet plane's maps in use";
        let mut metric =
            encoder.encode_descriptor("llb_packet_map_entries", help, None, MetricType::Gauge)?;
        for map in &maps {
            let labels = [("map", map.name.to_lowercase())];
            ConstGauge::new(map.used).encode(metric.encode_family(&labels)?)?;
        }
        let help = "Entries that they have room for";
        let mut metric =
            encoder.encode_descriptor("llb_packet_map_capacity", help, None, MetricType::Gauge)?;
        for map in &maps {
            let labels = [("map", map.name.to_lowercase())];
            ConstGauge::new(map.most).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let counters = counting::backends(&self.0);
        let mut rows: BTreeMap<[String; 4], [u64; 2]> = BTreeMap::new();
        let state = self.0.state();
        for (n, (traffic, counter)) in counters.into_iter().enumerate() {
            let service = state.image.service(&counter.frontend);
            let name = |of: fn(&ServiceName) -> &str| service.map(of).unwrap_or_default().to_owned();
            let names = if n < MOST_BACKENDS {
                let backend = counter.backend.map(|backend| backend.to_string()).unwrap_or_default();
                let [namespace, service] = [name(|name| &name.namespace), name(|name| &name.name)];
                [namespace, service, counter.frontend.to_string(), backend]
            } else {
                [OTHERS; 4].map(str::to_owned)
            };
            let row = rows.entry(names).or_default();
            *row = [row[0] + traffic.packets, row[1] + traffic.reply_packets];
        }
        let names = ["namespace", "service", "frontend", "backend"];
        let row = |(values, packets): ([String; 4], [u64; 2])| {
            let labels = names.into_iter().zip(values).chain([("plane", "packet".to_owned())]).collect();
            Row { labels, packets }
        };
        rows.into_iter().map(row).collect()
    }
}
