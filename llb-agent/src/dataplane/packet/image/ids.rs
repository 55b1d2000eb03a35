// SPDX-License-Identifier: Apache-2.0
//! The numbers in the packet plane's maps: which are in use, which are free, and which
//! must rest before they are used again. It knows no contents.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use llb_common::backend::BackendId;
use llb_common::frontend::MaglevTable;
use llb_common::hash::mix;
use llb_common::time::{Tick, elapsed_secs};

use crate::model::{PacketLimit, ServiceName};

/// A place's generations are 1 to this, then 1 again (12 bits, see [`BackendId`]).
const LAST_GENERATION: u16 = 4095;

/// How long chunks rest before another table gets them: a packet that is being handled may
/// still use the table that they were part of. The programs ask for a second at least.
const CHUNK_REST_SECS: u32 = 2;

/// Places in the array of backends.
#[derive(Debug)]
pub(super) struct Places {
    capacity: u32,
    /// No place from here on was ever used.
    next: u32,
    /// Free places with the id that each had last. They are used again in this order, so
    /// that an id comes back as late as possible.
    free: VecDeque<BackendId>,
}

impl Places {
    /// The places of `used` are taken and all others are free; `free` has the last ids of
    /// free places, as far as they are known.
    pub(super) fn new(
        capacity: u32,
        used: impl IntoIterator<Item = BackendId>,
        free: impl IntoIterator<Item = BackendId>,
    ) -> Self {
        let used: BTreeSet<u32> = used.into_iter().map(BackendId::index).collect();
        // An id without a generation was never given.
        let free: BTreeMap<u32, BackendId> =
            free.into_iter().filter(|id| id.generation() != 0).map(|id| (id.index(), id)).collect();
        let last = used.last().into_iter().chain(free.keys().next_back()).max();
        let next = last.map_or(0, |last| last + 1);
        let unused = (0..next).filter(|index| !used.contains(index));
        let last_id = |index| free.get(&index).copied().unwrap_or(BackendId::new(index, 0));
        Self { capacity, next, free: unused.map(last_id).collect() }
    }

    pub(super) fn allocate(&mut self) -> Result<BackendId, PacketLimit> {
        if let Some(last) = self.free.pop_front() {
            let generation = if last.generation() < LAST_GENERATION { last.generation() + 1 } else { 1 };
            return Ok(BackendId::new(last.index(), generation));
        }
        if self.next >= self.capacity {
            return Err(PacketLimit::Backends { most: self.capacity });
        }
        self.next += 1;
        Ok(BackendId::new(self.next - 1, 1))
    }

    pub(super) fn free(&mut self, id: BackendId) {
        self.free.push_back(id);
    }

    pub(super) fn used(&self) -> u32 {
        self.next - self.free.len() as u32
    }
}

/// Chunks of selection tables.
#[derive(Debug)]
pub(super) struct Chunks {
    is_used: Vec<bool>,
    /// Tables that were freed at this time. Their chunks count as used until they have rested.
    resting: Vec<(MaglevTable, Tick)>,
}

impl Chunks {
    /// The chunks of the tables in `used` are taken and all others are free.
    pub(super) fn new(capacity: u32, used: impl IntoIterator<Item = MaglevTable>) -> Self {
        let mut chunks = Self { is_used: vec![false; capacity as usize], resting: Vec::new() };
        used.into_iter().for_each(|table| chunks.mark(table, true));
        chunks
    }

    /// Lets those tables rest that rest in `other` and are not in use here.
    pub(super) fn rest_as(&mut self, other: &Self) {
        for (table, since) in &other.resting {
            if self.run(*table).is_some_and(|run| run.iter().all(|is_used| !is_used)) {
                self.mark(*table, true);
                self.resting.push((*table, *since));
            }
        }
    }

    /// A run of chunks for a table of `slots` slots: the first one that is long enough.
    pub(super) fn allocate(&mut self, slots: u32, now: Tick) -> Result<MaglevTable, PacketLimit> {
        let (rested, resting): (Vec<_>, Vec<_>) =
            self.resting.drain(..).partition(|(_, since)| elapsed_secs(*since, now) >= CHUNK_REST_SECS);
        self.resting = resting;
        rested.into_iter().for_each(|(table, _)| self.mark(table, false));

        let wanted = MaglevTable { first_chunk: 0, slots }.chunks() as usize;
        let mut start = 0;
        while start + wanted <= self.is_used.len() {
            match self.is_used[start..start + wanted].iter().rposition(|is_used| *is_used) {
                None => {
                    let table = MaglevTable { first_chunk: start as u32, slots };
                    self.mark(table, true);
                    return Ok(table);
                }
                Some(taken) => start += taken + 1,
            }
        }
        Err(PacketLimit::Tables { slots, most: self.is_used.len() as u32 })
    }

    /// The chunks are free after a rest of [`CHUNK_REST_SECS`].
    pub(super) fn free(&mut self, table: MaglevTable, now: Tick) {
        if table.slots != 0 {
            self.resting.push((table, now));
        }
    }

    pub(super) fn used(&self) -> u32 {
        self.is_used.iter().filter(|is_used| **is_used).count() as u32
    }

    /// How many of the used chunks only rest.
    pub(super) fn resting(&self) -> u32 {
        self.resting.iter().map(|(table, _)| table.chunks()).sum()
    }

    fn mark(&mut self, table: MaglevTable, is_used: bool) {
        let first = table.first_chunk as usize;
        if let Some(run) = self.is_used.get_mut(first..first + table.chunks() as usize) {
            run.fill(is_used);
        }
    }

    fn run(&self, table: MaglevTable) -> Option<&[bool]> {
        let first = table.first_chunk as usize;
        self.is_used.get(first..first + table.chunks() as usize)
    }
}

/// The numbers of Services. A number follows from the name, so that it is the same after a
/// restart. If two names have the same one, the later Service gets the next free number.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    names: BTreeMap<u32, ServiceName>,
}

impl Services {
    pub(super) fn id_of(&mut self, name: &ServiceName) -> u32 {
        let mut id = number_of(name.to_string().as_bytes());
        while self.names.get(&id).is_some_and(|known| known != name) {
            id = id.wrapping_add(1).max(1);
        }
        self.names.entry(id).or_insert_with(|| name.clone());
        id
    }

    pub(super) fn forget(&mut self, id: u32) {
        self.names.remove(&id);
    }

    /// Forgets all but these.
    pub(super) fn keep(&mut self, ids: &BTreeSet<u32>) {
        self.names.retain(|id, _| ids.contains(id));
    }
}

/// The number of a name: not 0.
pub(super) fn number_of(name: &[u8]) -> u32 {
    let hash = name.iter().fold(name.len() as u64, |hash, byte| mix(hash ^ u64::from(*byte)));
    (hash as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_with_the_next_generation() {
        let mut places = Places::new(2, [], []);
        let (first, second) = (places.allocate().unwrap(), places.allocate().unwrap());
        assert_eq!((first, second), (BackendId::new(0, 1), BackendId::new(1, 1)));
        assert_eq!(places.allocate(), Err(PacketLimit::Backends { most: 2 }));
        places.free(first);
        assert_eq!(places.allocate(), Ok(BackendId::new(0, 2)));
        places.free(BackendId::new(0, LAST_GENERATION));
        assert_eq!(places.allocate(), Ok(BackendId::new(0, 1)));
    }

    #[test]
    fn places_go_on_after_a_restart() {
        let mut places = Places::new(9, [BackendId::new(2, 7)], [BackendId::new(0, 4), BackendId::new(3, 0)]);
        assert_eq!(places.used(), 1);
        assert_eq!(places.allocate(), Ok(BackendId::new(0, 5)), "flows of (0, 4) may still be there");
        assert_eq!(places.allocate(), Ok(BackendId::new(1, 1)));
        assert_eq!(places.allocate(), Ok(BackendId::new(3, 1)));
    }

    #[test]
    fn chunks_rest_before_they_are_used_again() {
        let mut chunks = Chunks::new(17, []);
        let small = chunks.allocate(1021, 10).unwrap();
        let large = chunks.allocate(16_381, 10).unwrap();
        assert_eq!((small.first_chunk, large.first_chunk, chunks.used()), (0, 1, 17));
        chunks.free(small, 10);
        assert_eq!(chunks.allocate(1021, 11), Err(PacketLimit::Tables { slots: 1021, most: 17 }));
        assert_eq!(chunks.allocate(1021, 13).unwrap().first_chunk, 0);
    }

    #[test]
    fn a_service_keeps_its_number_and_shares_it_with_nobody() {
        let (one, other) = (ServiceName::new("a", "b"), ServiceName::new("a", "c"));
        let mut services = Services::default();
        let id = services.id_of(&one);
        assert_eq!(services.id_of(&one), id);
        assert_ne!(services.id_of(&other), id);
        let mut crowded = Services { names: [(id, other)].into() };
        assert_eq!(crowded.id_of(&one), id + 1);
    }
}
