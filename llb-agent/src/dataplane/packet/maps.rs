// SPDX-License-Identifier: Apache-2.0
//! The kernel's maps that all links share, with the types of their entries. What to write
//! into them is decided in `image/`.

use std::collections::HashMap;
use std::fmt;
use std::io;

use aya::maps::{MapData, PerCpuArray};
use llb_common::address::Address;
use llb_common::backend::{BackendEntry, BackendId, FailureMark};
use llb_common::conntrack::{ForwardEntry, ForwardKey, ReplyEntry, ReplyKey};
use llb_common::counters::Traffic;
use llb_common::frontend::{
    CHUNK_SLOTS, Chunk, FrontendEntry, FrontendKey, MaglevTable, MemberKey, SourceRangeKey,
};
use llb_common::maps;
use llb_common::reason::Reason;
use llb_common::settings::Settings;

use super::flow_table::FlowTable;
use super::image::{Restored, Write};
use super::map_store::MapStore;
use super::per_cpu::PerCpu;
use super::table::Table;

/// The shared maps that the agent reads and writes.
pub(super) struct Maps {
    pub(super) settings: Table<u32, Settings>,
    pub(super) links: Table<u32, [u8; 8]>,
    pub(super) frontends: Table<FrontendKey, FrontendEntry>,
    vips: Table<Address, u32>,
    pub(super) maglev: Table<u32, Chunk>,
    pub(super) backends: Table<u32, BackendEntry>,
    pub(super) ranges: Table<SourceRangeKey, u8>,
    pub(super) members: Table<MemberKey, u32>,
    pub(super) flows: FlowTable<ForwardKey, ForwardEntry>,
    pub(super) replies: FlowTable<ReplyKey, ReplyEntry>,
    pub(super) pending_flows: Table<ForwardKey, ForwardEntry>,
    pub(super) pending_replies: Table<ReplyKey, ReplyEntry>,
    failing: Table<BackendId, FailureMark>,
    traffic: PerCpu<Traffic>,
    reasons: PerCpuArray<MapData, [u8; 8]>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

impl Maps {
    /// The maps that `take` gives by their names.
    ///
    /// # Errors
    /// A map is missing, or its keys or values have other sizes.
    pub(super) fn new(mut take: impl FnMut(&'static str) -> io::Result<MapData>) -> io::Result<Self> {
        Ok(Self {
            settings: Table::new(take(maps::SETTINGS.name)?)?,
            links: Table::new(take(maps::LINKS.name)?)?,
            frontends: Table::new(take(maps::FRONTENDS.name)?)?,
            vips: Table::new(take(maps::VIPS.name)?)?,
            maglev: Table::new(take(maps::MAGLEV.name)?)?,
            backends: Table::new(take(maps::BACKENDS.name)?)?,
            ranges: Table::new(take(maps::SOURCE_RANGES.name)?)?,
            members: Table::new(take(maps::MEMBERS.name)?)?,
            flows: FlowTable::new(&take(maps::FLOWS.name)?)?,
            replies: FlowTable::new(&take(maps::REPLIES.name)?)?,
            pending_flows: Table::new(take(maps::PENDING_FLOWS.name)?)?,
            pending_replies: Table::new(take(maps::PENDING_REPLIES.name)?)?,
            failing: Table::new(take(maps::FAILING.name)?)?,
            traffic: PerCpu::new(take(maps::TRAFFIC.name)?)?,
            reasons: PerCpuArray::try_from(aya::maps::Map::PerCpuArray(take(maps::REASONS.name)?))
                .map_err(io::Error::other)?,
        })
    }

    /// What was counted at the first places of the backends' array, over all CPUs.
    pub(super) fn traffic(&self, places: usize) -> io::Result<Vec<Traffic>> {
        self.traffic.first(places, Traffic::plus)
    }

    /// The mark of a backend that failed and has not answered since.
    pub(super) fn mark_of(&self, id: BackendId) -> io::Result<Option<FailureMark>> {
        self.failing.get(&id)
    }

    /// Replaces the mark of a backend, unless an answer has removed it.
    pub(super) fn mark_as_failing(&self, id: BackendId, mark: FailureMark) -> io::Result<()> {
        self.failing.replace(&id, &mark).map(drop)
    }

    /// Removes the mark of a backend.
    pub(super) fn forget_failure(&self, id: BackendId) -> io::Result<()> {
        self.failing.remove(&id).map(drop)
    }

    /// The backends that refused or did not answer a new connection, and have answered none since.
    pub(super) fn failing(&self) -> io::Result<HashMap<BackendId, FailureMark>> {
        let mut failing = HashMap::new();
        self.failing.for_each(|id, mark| {
            failing.insert(id, mark);
        })?;
        Ok(failing)
    }

    /// How often each reason was counted, over all CPUs.
    ///
    /// # Errors
    /// The kernel refuses to read the map.
    pub(super) fn reasons(&self) -> io::Result<Vec<(Reason, u64)>> {
        let count = |reason: Reason| {
            let values = self.reasons.get(&(reason as u32), 0).map_err(io::Error::other)?;
            Ok((reason, values.iter().map(|bytes| u64::from_ne_bytes(*bytes)).sum()))
        };
        Reason::ALL.into_iter().map(count).collect()
    }
}

impl MapStore for Maps {
    fn write(&self, write: &Write) -> io::Result<()> {
        match write {
            Write::ResetTraffic(id) => self.traffic.reset(id.index()),
            Write::Backend(entry) => self.backends.insert(&entry.id.index(), entry),
            Write::Chunk(number, chunk) => self.maglev.insert(number, chunk),
            Write::Member(key, id) => self.members.insert(key, &id.0),
            Write::SourceRange(key, admits) => self.ranges.insert(key, admits),
            Write::Vip(address) => self.vips.insert(address, &1),
            Write::Frontend(key, entry) => self.frontends.insert(key, entry),
            Write::RemoveFrontend(key) => self.frontends.remove(key).map(drop),
            Write::RemoveVip(address) => self.vips.remove(address).map(drop),
            Write::RemoveMember(key) => self.members.remove(key).map(drop),
            Write::RemoveSourceRange(key) => self.ranges.remove(key).map(drop),
        }
    }

    fn restore(&self) -> io::Result<Restored> {
        let mut restored = Restored::default();
        self.frontends.for_each(|key, entry| restored.frontends.push((key, entry)))?;
        self.vips.for_each(|address, _| restored.vips.push(address))?;
        self.backends.for_each(|_, entry| restored.backends.push(entry))?;
        self.members.for_each(|key, _| restored.members.push(key))?;
        self.ranges.for_each(|key, admits| restored.ranges.push((key, admits)))?;
        Ok(restored)
    }

    fn slots(&self, table: MaglevTable) -> io::Result<Vec<u32>> {
        let mut slots: Vec<u32> = Vec::with_capacity(table.chunks() as usize * CHUNK_SLOTS);
        for number in table.first_chunk..table.first_chunk + table.chunks() {
            slots.extend(self.maglev.get(&number)?.unwrap_or([0; CHUNK_SLOTS]));
        }
        slots.truncate(table.slots as usize);
        Ok(slots)
    }
}
