// SPDX-License-Identifier: Apache-2.0
//! A flow table of the kernel's as a copy that tests and benches may read and
//! fill; only the agent changes the memory itself.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use aya::maps::{Array, Map, MapData};
use bytemuck::Pod;
use llb_common::flow_table::{Key, LINE_WORDS, Words};

const LINE_BYTES: usize = size_of::<[u64; LINE_WORDS]>();
/// Nothing here needs a secret.
const SEEDS: Key = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// All lines of a table.
pub struct FlowLines(Vec<AtomicU64>);

impl FlowLines {
    /// Of a table of so many lines, with nothing in it.
    pub fn new(lines: usize) -> Self {
        let lines = Self((0..lines * LINE_WORDS).map(|_| AtomicU64::new(0)).collect());
        lines.table::<[u64; 3], u64>().begin(SEEDS);
        lines
    }

    /// As many as a map has.
    ///
    /// # Errors
    /// The map is no flow table.
    pub fn empty(map: &Map) -> Result<Self> {
        let map: Array<&MapData, [u8; LINE_BYTES]> = map.try_into()?;
        Ok(Self::new(map.len() as usize))
    }

    /// Of a map, as it is; one of zeros is made a table first, here only.
    ///
    /// # Errors
    /// The map is no flow table, or the kernel does not show it.
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

    /// Into the map.
    ///
    /// # Errors
    /// The map is no flow table, or the kernel refuses.
    pub fn write(&self, map: &mut Map) -> Result<()> {
        let mut map: Array<&mut MapData, [u8; LINE_BYTES]> = map.try_into()?;
        for (index, line) in (0..map.len()).zip(self.0.as_chunks::<LINE_WORDS>().0) {
            let words = line.each_ref().map(|word| word.load(Ordering::Relaxed));
            map.set(index, &bytemuck::cast::<_, [u8; LINE_BYTES]>(words), 0)?;
        }
        Ok(())
    }

    /// With its types.
    pub fn table<K: Pod, V: Pod>(&self) -> Words<'_, K, V> {
        Words::new(&self.0)
    }
}
