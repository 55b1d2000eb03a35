// SPDX-License-Identifier: Apache-2.0
//! The programs' counters as metrics that only the packet plane has, read at each scrape. Metrics that all planes have are in
//! `observe/exposition.rs`.

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

/// Reads the counters at each scrape.
#[derive(Debug)]
struct PacketCollector(Arc<Shared>);

/// Adds the counters to `registry`.
pub(super) fn register(shared: &Arc<Shared>, registry: &mut Registry) {
    registry.register_collector(Box::new(PacketCollector(Arc::clone(shared))));
}

impl Collector for PacketCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_links(&mut encoder)?;
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
        let maps = Arc::clone(&self.0.state().maps);
        // If the map can't be read, a gap in the series is better than zeros.
        for (reason, count) in maps.reasons().unwrap_or_default() {
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
}
