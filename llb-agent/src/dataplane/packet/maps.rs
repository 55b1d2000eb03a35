// SPDX-License-Identifier: Apache-2.0
//! The maps that all links share, with the types of their entries. Writes are
//! carried out here, one call each; what to write is decided in `book`.

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use aya::maps::{MapData, PerCpuArray};
use llb_common::backend::{BackendEntry, BackendId};
use llb_common::conntrack::{ForwardEntry, ForwardKey, FragmentKey, FragmentPorts, ReplyEntry, ReplyKey};
use llb_common::counters::Traffic;
use llb_common::flow_table::{Line, lines};
use llb_common::frontend::{
    AffinityEntry, AffinityKey, CHUNK_SLOTS, Chunk, FrontendEntry, FrontendKey, MaglevTable, MemberKey,
    SourceRangeKey,
};
use llb_common::maps::{self, Map};
use llb_common::reason::Reason;
use llb_common::settings::Settings;
use llb_common::time::Tick;

use super::book::{Restored, Write};
use super::flow_table::FlowTable;
use super::table::Table;
use crate::config::PacketConfig;

/// Frontends of the packet plane; a Service beyond is relayed.
const MAX_FRONTENDS: u32 = 16_384;
/// Chunks of 4 KiB, 48 MiB: with up to ten backends a frontend has one, and one
/// more for a while after each change.
const MAX_CHUNKS: u32 = 12_288;
/// Flows that are not answered yet.
const MAX_PENDING: u32 = 65_536;
/// Clients whose host is remembered.
const MAX_AFFINITY: u32 = 65_536;
/// Packets in fragments that are on their way at one time.
const MAX_FRAGMENTS: u32 = 8192;

/// Of the machine's memory, this part is for flows, unless `--max-flows` says otherwise.
const MEMORY_PART: u64 = 256;
/// What a connection takes, see `llb_common::conntrack`.
const FLOW_BYTES: u64 = 228;
/// Neither less nor more by default.
const DEFAULT_FLOWS: (u64, u64) = (65_536, 4_194_304);

/// How many entries the maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacities {
    pub(super) flows: u32,
    pub(super) backends: u32,
    pub(super) chunks: u32,
}

impl Capacities {
    /// `memory_bytes`: what this machine has.
    pub(super) fn new(config: &PacketConfig, memory_bytes: u64) -> Self {
        let by_memory = (memory_bytes / MEMORY_PART / FLOW_BYTES).clamp(DEFAULT_FLOWS.0, DEFAULT_FLOWS.1);
        let backends = if config.max_backends == 0 { 16_384 } else { config.max_backends };
        Self {
            flows: config.max_flows.map_or(by_memory as u32, NonZeroU32::get),
            backends,
            chunks: MAX_CHUNKS,
        }
    }

    /// Of one map; those not named have what the object says.
    pub(super) fn of(&self, map: Map) -> u32 {
        match map {
            maps::FRONTENDS => MAX_FRONTENDS,
            maps::MAGLEV => self.chunks,
            maps::BACKENDS | maps::TRAFFIC => self.backends,
            maps::MEMBERS | maps::FAILING => self.backends,
            maps::FLOWS | maps::REPLIES => lines(self.flows),
            maps::PENDING_FLOWS | maps::PENDING_REPLIES => MAX_PENDING,
            maps::AFFINITY => MAX_AFFINITY,
            maps::FRAGMENTS => MAX_FRAGMENTS,
            other => other.capacity as u32,
        }
    }
}

/// Bytes of a key and of a value; `None` for the ring buffer.
pub(super) fn sizes_of(map: Map) -> Option<(u32, u32)> {
    fn sizes<K, V>() -> Option<(u32, u32)> {
        Some((size_of::<K>() as u32, size_of::<V>() as u32))
    }
    match map {
        maps::SETTINGS => sizes::<u32, Settings>(),
        maps::LINKS => sizes::<u32, [u8; 8]>(),
        maps::FRONTENDS => sizes::<FrontendKey, FrontendEntry>(),
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
        maps::FAILING => sizes::<BackendId, Tick>(),
        maps::FRAGMENTS => sizes::<FragmentKey, FragmentPorts>(),
        _ => None,
    }
}

/// Bytes of the machine's memory; 0 if it can't be told.
pub(super) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    kibibytes.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The shared maps that the agent reads and writes.
pub(super) struct Maps {
    pub(super) settings: Table<u32, Settings>,
    pub(super) links: Table<u32, [u8; 8]>,
    pub(super) frontends: Table<FrontendKey, FrontendEntry>,
    pub(super) maglev: Table<u32, Chunk>,
    pub(super) backends: Table<u32, BackendEntry>,
    pub(super) ranges: Table<SourceRangeKey, u8>,
    pub(super) members: Table<MemberKey, u32>,
    pub(super) flows: FlowTable<ForwardKey, ForwardEntry>,
    pub(super) replies: FlowTable<ReplyKey, ReplyEntry>,
    pub(super) pending_flows: Table<ForwardKey, ForwardEntry>,
    pub(super) pending_replies: Table<ReplyKey, ReplyEntry>,
    traffic: Mutex<PerCpuArray<MapData, [u8; size_of::<Traffic>()]>>,
    reasons: PerCpuArray<MapData, [u8; 8]>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

impl Maps {
    /// `take` gives each map by name.
    ///
    /// # Errors
    /// A map is not there, or has entries of other sizes.
    pub(super) fn new(mut take: impl FnMut(&'static str) -> io::Result<MapData>) -> io::Result<Self> {
        fn per_cpu<const N: usize>(map: MapData) -> io::Result<PerCpuArray<MapData, [u8; N]>> {
            PerCpuArray::try_from(aya::maps::Map::PerCpuArray(map)).map_err(io::Error::other)
        }
        Ok(Self {
            settings: Table::new(take(maps::SETTINGS.name)?)?,
            links: Table::new(take(maps::LINKS.name)?)?,
            frontends: Table::new(take(maps::FRONTENDS.name)?)?,
            maglev: Table::new(take(maps::MAGLEV.name)?)?,
            backends: Table::new(take(maps::BACKENDS.name)?)?,
            ranges: Table::new(take(maps::SOURCE_RANGES.name)?)?,
            members: Table::new(take(maps::MEMBERS.name)?)?,
            flows: FlowTable::new(&take(maps::FLOWS.name)?)?,
            replies: FlowTable::new(&take(maps::REPLIES.name)?)?,
            pending_flows: Table::new(take(maps::PENDING_FLOWS.name)?)?,
            pending_replies: Table::new(take(maps::PENDING_REPLIES.name)?)?,
            traffic: Mutex::new(per_cpu(take(maps::TRAFFIC.name)?)?),
            reasons: per_cpu(take(maps::REASONS.name)?)?,
        })
    }

    /// Carries out, in this order.
    ///
    /// # Errors
    /// The first write that the kernel refused; those behind it were not tried.
    pub(super) fn apply(&self, writes: Vec<Write>) -> io::Result<()> {
        writes.into_iter().try_for_each(|write| match write {
            Write::ResetTraffic(id) => self.reset_traffic(id.index()),
            Write::Backend(entry) => self.backends.insert(&entry.id.index(), &entry),
            Write::Chunk(number, chunk) => self.maglev.insert(&number, &chunk),
            Write::Member(key, id) => self.members.insert(&key, &id.0),
            Write::SourceRange(key, admits) => self.ranges.insert(&key, &admits),
            Write::Frontend(key, entry) => self.frontends.insert(&key, &entry),
            Write::RemoveFrontend(key) => self.frontends.remove(&key).map(drop),
            Write::RemoveMember(key) => self.members.remove(&key).map(drop),
            Write::RemoveSourceRange(key) => self.ranges.remove(&key).map(drop),
        })
    }

    /// All that a book is made of.
    ///
    /// # Errors
    /// The kernel refuses to show a map.
    pub(super) fn restore(&self) -> io::Result<Restored> {
        let mut restored = Restored::default();
        self.frontends.for_each(|key, entry| restored.frontends.push((key, entry)))?;
        self.backends.for_each(|_, entry| restored.backends.push(entry))?;
        self.members.for_each(|key, _| restored.members.push(key))?;
        self.ranges.for_each(|key, admits| restored.ranges.push((key, admits)))?;
        Ok(restored)
    }

    /// The slots of a table; as many as can be read.
    pub(super) fn slots(&self, table: MaglevTable) -> Vec<u32> {
        let chunks = table.first_chunk..table.first_chunk + table.chunks();
        let mut slots: Vec<u32> = Vec::with_capacity(table.chunks() as usize * CHUNK_SLOTS);
        for chunk in chunks.filter_map(|number| self.maglev.get(&number).ok().flatten()) {
            slots.extend(chunk);
        }
        slots.truncate(table.slots as usize);
        slots
    }

    /// What a backend's place has counted, over all CPUs.
    pub(super) fn traffic(&self, index: u32) -> Traffic {
        let values = self.traffic.lock().unwrap_or_else(PoisonError::into_inner).get(&index, 0);
        let values = values.iter().flat_map(|values| values.iter());
        values.map(|bytes| bytemuck::pod_read_unaligned(bytes)).fold(Traffic::default(), Traffic::plus)
    }

    /// How often each reason was counted, over all CPUs.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().map(|reason| {
            let values = self.reasons.get(&(reason as u32), 0);
            let values = values.iter().flat_map(|values| values.iter());
            (reason, values.map(|bytes| u64::from_ne_bytes(*bytes)).sum())
        })
    }

    fn reset_traffic(&self, index: u32) -> io::Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let values = vec![[0; size_of::<Traffic>()]; cpus.get() as usize];
        let values = aya::maps::PerCpuValues::try_from(values)?;
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.set(index, values, 0).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_follow_memory_unless_told() {
        let flows = |config: &PacketConfig, gibibytes: u64| Capacities::new(config, gibibytes << 30).flows;
        let config = PacketConfig::default();
        assert_eq!([flows(&config, 0), flows(&config, 1000)], [65_536, 4_194_304]);
        assert!((100_000..500_000).contains(&flows(&config, 16)));
        let told = PacketConfig { max_flows: NonZeroU32::new(1000), ..config };
        assert_eq!(flows(&told, 16), 1000);
    }
}
