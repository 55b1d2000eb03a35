// SPDX-License-Identifier: Apache-2.0
//! Which maps the programs have, who shares them, and how large they are. The entries
//! are read and written in `maps.rs`.

use std::num::NonZeroU32;

use llb_common::address::Address;
use llb_common::backend::{BackendEntry, BackendId, FailureMark};
use llb_common::conntrack::{ForwardEntry, ForwardKey, FragmentKey, FragmentPorts, ReplyEntry, ReplyKey};
use llb_common::counters::Traffic;
use llb_common::flow_table::{Line, lines};
use llb_common::frontend::{
    AffinityEntry, AffinityKey, Chunk, FrontendEntry, FrontendKey, MemberKey, SourceRangeKey,
};
use llb_common::maps::{self, Map};
use llb_common::settings::Settings;

use super::image::Limits;
use crate::config::PacketConfig;

/// Maps that each link has for itself.
pub(super) const OF_A_LINK: [Map; 1] = [maps::LINK];
/// Maps that are made anew with each start; nothing in them is worth keeping.
const OF_A_RUN: [Map; 2] = [maps::BUDGET, maps::SCRATCH];

/// Frontends of the packet plane; more are relayed.
const MAX_FRONTENDS: u32 = 16_384;
/// Chunks of selection tables: 48 MiB in parts of 4 KiB. A frontend with up to ten backends
/// uses one chunk, and another one for a while after each change.
const MAX_CHUNKS: u32 = 12_288;
/// The fewest and the most pending flows. Between them, there are as many as flows. If the map is full, the kernel
/// evicts what the programs have not looked at lately, and that may be a question that waits for its
/// answer. Only with more places than source ports in use, ports go to other flows by the programs' rule alone.
const PENDING: (u32, u32) = (65_536, 262_144);
/// Clients whose host is remembered for affinity.
const MAX_AFFINITY: u32 = 65_536;
/// Packets that arrive in fragments at one time.
const MAX_FRAGMENTS: u32 = 8192;

/// One part in this many of the machine's memory is for flows, unless `--max-flows` is given.
const MEMORY_PART: u64 = 256;
/// Bytes of a connection, see `llb_common::conntrack`.
const FLOW_BYTES: u64 = 228;
/// The fewest and the most flows by default.
const DEFAULT_FLOWS: (u64, u64) = (65_536, 4_194_304);

/// How many entries the maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacities {
    pub(super) flows: u32,
    pub(super) backends: u32,
    pub(super) chunks: u32,
}

impl Capacities {
    /// The capacities for a machine with `memory_bytes` of memory.
    pub(super) fn new(config: &PacketConfig, memory_bytes: u64) -> Self {
        let by_memory = (memory_bytes / MEMORY_PART / FLOW_BYTES).clamp(DEFAULT_FLOWS.0, DEFAULT_FLOWS.1);
        let backends = if config.max_backends == 0 { 16_384 } else { config.max_backends };
        Self {
            flows: config.max_flows.map_or(by_memory as u32, NonZeroU32::get),
            backends,
            chunks: MAX_CHUNKS,
        }
    }

    /// What the image of the maps may use.
    pub(super) fn limits(&self) -> Limits {
        Limits { frontends: MAX_FRONTENDS, backends: self.backends, chunks: self.chunks }
    }

    /// How many entries `map` has.
    pub(super) fn of(&self, map: Map) -> u32 {
        match map {
            maps::FRONTENDS | maps::VIPS => MAX_FRONTENDS,
            maps::MAGLEV => self.chunks,
            maps::BACKENDS | maps::TRAFFIC => self.backends,
            maps::MEMBERS | maps::FAILING => self.backends,
            maps::FLOWS | maps::REPLIES => lines(self.flows),
            maps::PENDING_FLOWS | maps::PENDING_REPLIES => self.flows.clamp(PENDING.0, PENDING.1),
            maps::AFFINITY => MAX_AFFINITY,
            maps::FRAGMENTS => MAX_FRAGMENTS,
            other => other.capacity as u32,
        }
    }
}

/// Bytes of a key and of a value; `None` if the map has no fixed ones.
pub(super) fn sizes_of(map: Map) -> Option<(u32, u32)> {
    fn sizes<K, V>() -> Option<(u32, u32)> {
        Some((size_of::<K>() as u32, size_of::<V>() as u32))
    }
    match map {
        maps::SETTINGS => sizes::<u32, Settings>(),
        maps::LINKS => sizes::<u32, [u8; 8]>(),
        maps::FRONTENDS => sizes::<FrontendKey, FrontendEntry>(),
        maps::VIPS => sizes::<Address, u32>(),
        maps::MAGLEV => sizes::<u32, Chunk>(),
        maps::BACKENDS => sizes::<u32, BackendEntry>(),
        maps::TRAFFIC => sizes::<u32, Traffic>(),
        maps::REASONS => sizes::<u32, u64>(),
        maps::SOURCE_RANGES => sizes::<SourceRangeKey, u8>(),
        maps::AFFINITY => sizes::<AffinityKey, AffinityEntry>(),
        maps::MEMBERS => sizes::<MemberKey, BackendId>(),
        maps::FLOWS | maps::REPLIES => sizes::<u32, Line>(),
        maps::PENDING_FLOWS => sizes::<ForwardKey, ForwardEntry>(),
        maps::PENDING_REPLIES => sizes::<ReplyKey, ReplyEntry>(),
        maps::FAILING => sizes::<BackendId, FailureMark>(),
        maps::FRAGMENTS => sizes::<FragmentKey, FragmentPorts>(),
        _ => None,
    }
}

/// Bytes of the machine's memory; 0 if the kernel does not tell.
pub(super) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    kibibytes.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The maps that all links share.
pub(super) fn shared_maps() -> impl Iterator<Item = Map> {
    maps::ALL.into_iter().filter(|map| !OF_A_LINK.contains(map) && !OF_A_RUN.contains(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_limit_follows_memory_unless_it_is_given() {
        let flows = |config: &PacketConfig, gibibytes: u64| Capacities::new(config, gibibytes << 30).flows;
        let config = PacketConfig::default();
        assert_eq!([flows(&config, 0), flows(&config, 1000)], [65_536, 4_194_304]);
        assert!((100_000..500_000).contains(&flows(&config, 16)));
        let told = PacketConfig { max_flows: NonZeroU32::new(1000), ..config };
        assert_eq!(flows(&told, 16), 1000);
    }

    #[test]
    fn there_is_room_for_as_many_pending_flows_as_flows_within_bounds() {
        let pending = |flows| {
            let config = PacketConfig { max_flows: NonZeroU32::new(flows), ..PacketConfig::default() };
            Capacities::new(&config, 0).of(maps::PENDING_FLOWS)
        };
        assert_eq!([pending(1000), pending(100_000), pending(4_000_000)], [65_536, 100_000, 262_144]);
    }
}
