// SPDX-License-Identifier: Apache-2.0
//! Maps in memory whose reads and writes can fail, for tests without a kernel. After each write
//! they check what packets rely on.
//!
//! A green test with them does *not* prove that the kernel accepts these writes, that its maps
//! have room for them, or that programs look at the maps in this order: the kernel's own maps
//! are tested by the tests that need root.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::{Mutex, MutexGuard};

use llb_common::address::Address;
use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::{Chunk, FrontendEntry, FrontendKey, MaglevTable, MemberKey, SourceRangeKey};
use llb_common::hash::mix;

use super::image::{Restored, Write};
use super::map_store::MapStore;

/// What the kernel would hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) frontends: HashMap<FrontendKey, FrontendEntry>,
    pub(super) vips: HashSet<Address>,
    pub(super) backends: BTreeMap<u32, BackendEntry>,
    pub(super) chunks: BTreeMap<u32, Box<Chunk>>,
    pub(super) members: HashMap<MemberKey, BackendId>,
    pub(super) ranges: BTreeMap<SourceRangeKey, u8>,
}

/// Maps in memory.
#[derive(Debug, Default)]
pub(super) struct FakeMaps {
    contents: Mutex<Contents>,
    faults: Mutex<Faults>,
}

/// How often writes and reads fail.
#[derive(Debug, Default)]
struct Faults {
    per_thousand: u64,
    random: u64,
    /// How many have failed so far.
    count: u32,
}

impl FakeMaps {
    /// From here on, so many of a thousand writes and reads fail. Half of the writes that
    /// fail happen all the same. `seed` decides which ones.
    pub(super) fn fail(&self, per_thousand: u64, seed: u64) {
        let mut faults = self.faults.lock().unwrap();
        (faults.per_thousand, faults.random) = (per_thousand, seed);
    }

    /// How many writes and reads have failed.
    pub(super) fn failures(&self) -> u32 {
        self.faults.lock().unwrap().count
    }

    pub(super) fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }

    /// A random number, if this access fails.
    fn fault(&self) -> Option<u64> {
        let mut faults = self.faults.lock().unwrap();
        faults.random = mix(faults.random.wrapping_add(1));
        let fails = faults.random % 1000 < faults.per_thousand;
        faults.count += u32::from(fails);
        fails.then_some(faults.random / 1000)
    }
}

impl MapStore for FakeMaps {
    fn write(&self, write: &Write) -> io::Result<()> {
        let fault = self.fault();
        if fault.is_none_or(|random| random % 2 == 0) {
            let mut contents = self.contents();
            contents.write(write);
            contents.check();
        }
        fault.map_or(Ok(()), |_| Err(io::Error::other("a write that fails on purpose")))
    }

    fn restore(&self) -> io::Result<Restored> {
        match self.fault() {
            Some(_) => Err(io::Error::other("a read that fails on purpose")),
            None => Ok(self.contents().restored()),
        }
    }

    fn slots(&self, table: MaglevTable) -> io::Result<Vec<u32>> {
        Ok(self.contents().slots(table))
    }
}

impl Contents {
    pub(super) fn write(&mut self, write: &Write) {
        match write.clone() {
            Write::ResetTraffic(_) => {}
            Write::Backend(entry) => drop(self.backends.insert(entry.id.index(), entry)),
            Write::Chunk(number, chunk) => drop(self.chunks.insert(number, chunk)),
            Write::Member(key, id) => drop(self.members.insert(key, id)),
            Write::SourceRange(key, admits) => drop(self.ranges.insert(key, admits)),
            Write::Vip(address) => drop(self.vips.insert(address)),
            Write::Frontend(key, entry) => drop(self.frontends.insert(key, entry)),
            Write::RemoveFrontend(key) => drop(self.frontends.remove(&key)),
            Write::RemoveVip(address) => drop(self.vips.remove(&address)),
            Write::RemoveMember(key) => drop(self.members.remove(&key)),
            Write::RemoveSourceRange(key) => drop(self.ranges.remove(&key)),
        }
    }

    pub(super) fn slots(&self, table: MaglevTable) -> Vec<u32> {
        let chunks = table.first_chunk..table.first_chunk + table.chunks();
        let mut slots: Vec<u32> = chunks.flat_map(|number| *self.chunks[&number]).collect();
        slots.truncate(table.slots as usize);
        slots
    }

    pub(super) fn restored(&self) -> Restored {
        Restored {
            frontends: self.frontends.iter().map(|(key, entry)| (*key, *entry)).collect(),
            vips: self.vips.iter().copied().collect(),
            backends: self.backends.values().copied().collect(),
            members: self.members.keys().copied().collect(),
            ranges: self.ranges.iter().map(|(key, admits)| (*key, *admits)).collect(),
        }
    }

    /// What packets rely on, whatever has failed.
    pub(super) fn check(&self) {
        for (key, entry) in &self.frontends {
            assert!(self.vips.contains(&key.vip), "the address of {key:?} is not known as a VIP");
            for id in self.ids(entry.table) {
                let backend = self.backends.get(&id.index());
                let backend = backend.filter(|backend| backend.id == id && backend.state != 0);
                assert!(backend.is_some_and(|backend| is_of(backend, key)), "{id:?} of {key:?} is missing");
            }
            // Backends of the table before may be gone, but none is another frontend's.
            for id in self.ids(entry.previous) {
                let backend = self.backends.get(&id.index()).filter(|backend| backend.id == id);
                let is_free = |backend: &BackendEntry| backend.state == 0;
                assert!(
                    backend.is_none_or(|backend| is_free(backend) || is_of(backend, key)),
                    "{id:?} of the previous table of {key:?} belongs to another frontend"
                );
            }
        }
        let ids: BTreeSet<u32> = self.frontends.values().map(|entry| entry.id).collect();
        assert_eq!(ids.len(), self.frontends.len(), "two frontends have one id");
    }

    /// The backends in a table.
    fn ids(&self, table: MaglevTable) -> BTreeSet<BackendId> {
        self.slots(table).into_iter().map(BackendId).collect()
    }
}

fn is_of(backend: &BackendEntry, key: &FrontendKey) -> bool {
    let vip: (Address, u16, u8) = (backend.vip, backend.vip_port.number(), backend.protocol);
    vip == (key.vip, key.port.number(), key.protocol)
}
