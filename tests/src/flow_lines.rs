// SPDX-License-Identifier: Apache-2.0
//! A copy of one of the kernel's flow tables, which tests and benchmarks read and fill. Only the agent changes
//! the shared memory itself.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use aya::maps::{Array, Map, MapData};
use bytemuck::Pod;
use llb_common::flow_table::{Key, LINE_WORDS, Words};

const LINE_BYTES: usize = size_of::<[u64; LINE_WORDS]>();
/// Tests need no secret seeds.
const SEEDS: Key = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// All lines of a flow table.
pub struct FlowLines(Vec<AtomicU64>);

impl FlowLines {
    /// An empty table with this number of lines.
    pub fn new(lines: usize) -> Self {
        let lines = Self((0..lines * LINE_WORDS).map(|_| AtomicU64::new(0)).collect());
        lines.table::<[u64; 3], u64>().begin(SEEDS);
        lines
    }

    /// An empty table with as many lines as the map.
    ///
    /// # Errors
    /// The map is not a flow table.
    pub fn empty(map: &Map) -> Result<Self> {
        let map: Array<&MapData, [u8; LINE_BYTES]> = map.try_into()?;
        Ok(Self::new(map.len() as usize))
    }

    /// A copy of the map's content. If the map is still all zeros, the copy (not the map) is initialized as an
    /// empty table.
    ///
    /// # Errors
    /// The map is not a flow table, or the kernel refuses to read it.
    pub fn read(map: &Map) -> Result<Self> {
        let map: Array<&MapData, [u8; LINE_BYTES]> = map.try_into()?;
        let mut words = Vec::new();
        for line in map.iter() {
            words.extend(bytemuck::cast::<_, [u64; LINE_WORDS]>(line?).map(AtomicU64::new));
        }
        let lines = Self(words);
        lines.table::<[u64; 3], u64>().begin(SEEDS);
        Ok(lines)
    }

    /// Writes the copy into the map.
    ///
    /// # Errors
    /// The map is not a flow table, or the kernel refuses to write it.
    pub fn write(&self, map: &mut Map) -> Result<()> {
        let mut map: Array<&mut MapData, [u8; LINE_BYTES]> = map.try_into()?;
        for (index, line) in (0..map.len()).zip(self.0.as_chunks::<LINE_WORDS>().0) {
            let words = line.each_ref().map(|word| word.load(Ordering::Relaxed));
            map.set(index, &bytemuck::cast::<_, [u8; LINE_BYTES]>(words), 0)?;
        }
        Ok(())
    }

    /// Replaces the value of a key where it is; removing and inserting it would move it. `false` if there is none.
    pub fn replace<V: Pod>(&self, key: [u8; 24], value: &V) -> bool {
        let key: Key = bytemuck::cast(key);
        let is_it = |line: &&[AtomicU64; LINE_WORDS]| {
            line.iter().zip(key).all(|(word, expected)| word.load(Ordering::Relaxed) == expected)
        };
        let Some(line) = self.0.as_chunks::<LINE_WORDS>().0.iter().find(is_it) else { return false };
        let bytes = bytemuck::bytes_of(value).as_chunks::<{ size_of::<u64>() }>().0;
        for (word, bytes) in line[key.len()..].iter().zip(bytes) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        true
    }

    /// The lines as a table of keys `K` and values `V`.
    pub fn table<K: Pod, V: Pod>(&self) -> Words<'_, K, V> {
        Words::new(&self.0)
    }
}
