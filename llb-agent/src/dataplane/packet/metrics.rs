//! The kernel's counts as metrics, read when somebody asks for them.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::{Registry, Unit};

use super::PacketObserver;

/// Asks the observer at each scrape.
#[derive(Debug)]
struct LinkCollector(Arc<PacketObserver>);

/// Makes `llb_link_packets` and `llb_link_bytes`, by link, known to `registry`.
pub(super) fn register(observer: &Arc<PacketObserver>, registry: &mut Registry) {
    registry.register_collector(Box::new(LinkCollector(observer.clone())));
}

impl Collector for LinkCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
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
}
