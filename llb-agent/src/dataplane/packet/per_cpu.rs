// SPDX-License-Identifier: Apache-2.0
//! An array with a value for each CPU. Many entries are read with one system call: ten thousand calls, one for each backend,
//! would be too slow every second.

use std::io;
use std::marker::PhantomData;

use aya::maps::MapData;
use bytemuck::Pod;

use super::table::{RawMap, WORD_BYTES, possible_cpus};

/// How many bytes one system call reads at most, so that a machine with many CPUs needs no large buffer.
const BATCH_BYTES: usize = 1 << 20;

/// A per-CPU array of values `V`.
#[derive(Debug)]
pub(super) struct PerCpu<V> {
    map: MapData,
    types: PhantomData<fn() -> V>,
}

impl<V: Pod> PerCpu<V> {
    /// The map with its type.
    ///
    /// # Errors
    /// Its keys or values have other sizes.
    pub(super) fn new(map: MapData) -> io::Result<Self> {
        let raw = RawMap::of(&map)?;
        let expected = (size_of::<u32>(), Self::value_bytes() * possible_cpus()?);
        if (raw.key_bytes, raw.value_bytes) != expected {
            let text = format!("a per-CPU array with keys and values of {raw:?}, not of {expected:?} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self { map, types: PhantomData })
    }

    /// The first `count` entries, each added up over all CPUs.
    ///
    /// # Errors
    /// The kernel refuses to read the map.
    pub(super) fn first(&self, count: usize, add: impl Fn(V, V) -> V) -> io::Result<Vec<V>> {
        let mut found = Vec::with_capacity(count);
        if count == 0 {
            return Ok(found);
        }
        let raw = RawMap::of(&self.map)?;
        let batch = (BATCH_BYTES / raw.value_bytes).clamp(1, count);
        raw.batches(batch, |_, values| {
            for entry in values.chunks_exact(raw.value_bytes) {
                let of_cpus = entry.chunks_exact(Self::value_bytes());
                let of_cpus = of_cpus.map(|bytes| bytemuck::pod_read_unaligned(&bytes[..size_of::<V>()]));
                found.push(of_cpus.fold(V::zeroed(), &add));
            }
            Ok(found.len() < count)
        })?;
        found.truncate(count);
        Ok(found)
    }

    /// Sets an entry to zero, on all CPUs.
    ///
    /// # Errors
    /// The kernel refuses to write the map.
    pub(super) fn reset(&self, index: u32) -> io::Result<()> {
        let raw = RawMap::of(&self.map)?;
        raw.insert_all(&index.to_ne_bytes(), &vec![0; raw.value_bytes])
    }

    fn value_bytes() -> usize {
        size_of::<V>().next_multiple_of(WORD_BYTES)
    }
}
