// SPDX-License-Identifier: Apache-2.0
//! The numbers of the packet plane's maps: which are in use, which are free,
//! which must rest before they may be used again. Pure; it knows no contents.

use std::collections::{BTreeMap, VecDeque};

use llb_common::backend::BackendId;
use llb_common::frontend::Table;
use llb_common::hash::mix;
use llb_common::time::{Tick, elapsed_secs};

use crate::model::ServiceName;

/// Generations of a place are 1 to this, and then 1 again (12 bits, see [`BackendId`]).
const LAST_GENERATION: u16 = 4095;

/// Chunks rest for so long, as a packet may still be on its way through the
/// table that they were part of: at least the second that the maps ask for.
const CHUNK_REST_SECS: u32 = 2;

/// A limit of the maps is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum NoRoom {
    /// `--max-backends`.
    #[error("the packet plane has all the {most} backends it has room for (--max-backends)")]
    Backends {
        /// How many.
        most: u32,
    },
    /// Chunks.
    #[error("the packet plane has no room for another selection table ({most} KiB of four are in use)")]
    Tables {
        /// How many chunks of 4 KiB.
        most: u32,
    },
}

/// Places in the array of backends.
#[derive(Debug)]
pub(super) struct Places {
    capacity: u32,
    /// From here on none was ever used.
    next: u32,
    /// With the generation that each had last; used again in that order, so that an
    /// id comes back as late as possible.
    free: VecDeque<BackendId>,
}

impl Places {
    /// `used` are taken, all others free.
    pub(super) fn new(capacity: u32, used: impl Iterator<Item = BackendId>) -> Self {
        let used: BTreeMap<u32, BackendId> = used.map(|id| (id.index(), id)).collect();
        let next = used.keys().next_back().map_or(0, |last| last + 1);
        let holes = (0..next).filter(|index| !used.contains_key(index));
        Self { capacity, next, free: holes.map(|index| BackendId::new(index, 0)).collect() }
    }

    pub(super) fn allocate(&mut self) -> Result<BackendId, NoRoom> {
        if let Some(last) = self.free.pop_front() {
            let generation = if last.generation() < LAST_GENERATION { last.generation() + 1 } else { 1 };
            return Ok(BackendId::new(last.index(), generation));
        }
        if self.next >= self.capacity {
            return Err(NoRoom::Backends { most: self.capacity });
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

/// Chunks of Maglev tables.
#[derive(Debug)]
pub(super) struct Chunks {
    is_used: Vec<bool>,
    resting: Vec<(Table, Tick)>,
}

impl Chunks {
    pub(super) fn new(capacity: u32, used: impl Iterator<Item = Table>) -> Self {
        let mut chunks = Self { is_used: vec![false; capacity as usize], resting: Vec::new() };
        used.for_each(|table| chunks.mark(table, true));
        chunks
    }

    /// A run of chunks for a table of `slots` slots: the first one that is large enough.
    pub(super) fn allocate(&mut self, slots: u32, now: Tick) -> Result<Table, NoRoom> {
        let (rested, resting): (Vec<_>, Vec<_>) =
            self.resting.drain(..).partition(|(_, since)| elapsed_secs(*since, now) >= CHUNK_REST_SECS);
        self.resting = resting;
        rested.into_iter().for_each(|(table, _)| self.mark(table, false));

        let wanted = Table { first_chunk: 0, slots }.chunks() as usize;
        let mut start = 0;
        while start + wanted <= self.is_used.len() {
            match self.is_used[start..start + wanted].iter().rposition(|is_used| *is_used) {
                None => {
                    let table = Table { first_chunk: start as u32, slots };
                    self.mark(table, true);
                    return Ok(table);
                }
                Some(taken) => start += taken + 1,
            }
        }
        Err(NoRoom::Tables { most: self.is_used.len() as u32 })
    }

    /// Not at once: see [`CHUNK_REST_SECS`].
    pub(super) fn free(&mut self, table: Table, now: Tick) {
        if table.slots != 0 {
            self.resting.push((table, now));
        }
    }

    pub(super) fn used(&self) -> usize {
        self.is_used.iter().filter(|is_used| **is_used).count()
    }

    fn mark(&mut self, table: Table, is_used: bool) {
        let first = table.first_chunk as usize;
        let run = first..first + table.chunks() as usize;
        if let Some(run) = self.is_used.get_mut(run) {
            run.fill(is_used);
        }
    }
}

/// Services by number. A number follows from the name, so that it is the same
/// after a restart; two names that would have the same one get neighbours.
#[derive(Debug, Default)]
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
        let mut places = Places::new(2, std::iter::empty());
        let (first, second) = (places.allocate().unwrap(), places.allocate().unwrap());
        assert_eq!((first, second), (BackendId::new(0, 1), BackendId::new(1, 1)));
        assert_eq!(places.allocate(), Err(NoRoom::Backends { most: 2 }));
        places.free(first);
        assert_eq!(places.allocate(), Ok(BackendId::new(0, 2)));
        places.free(BackendId::new(0, LAST_GENERATION));
        assert_eq!(places.allocate(), Ok(BackendId::new(0, 1)));
    }

    #[test]
    fn places_go_on_after_a_restart() {
        let mut places = Places::new(9, [BackendId::new(2, 7)].into_iter());
        assert_eq!(places.used(), 1);
        assert_eq!(places.allocate(), Ok(BackendId::new(0, 1)));
        assert_eq!(places.allocate(), Ok(BackendId::new(1, 1)));
        assert_eq!(places.allocate(), Ok(BackendId::new(3, 1)));
    }

    #[test]
    fn chunks_rest_before_they_are_used_again() {
        let mut chunks = Chunks::new(17, std::iter::empty());
        let small = chunks.allocate(1021, 10).unwrap();
        let large = chunks.allocate(16_381, 10).unwrap();
        assert_eq!((small.first_chunk, large.first_chunk, chunks.used()), (0, 1, 17));
        chunks.free(small, 10);
        assert_eq!(chunks.allocate(1021, 11), Err(NoRoom::Tables { most: 17 }));
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
