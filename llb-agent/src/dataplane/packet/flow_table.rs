// SPDX-License-Identifier: Apache-2.0
//! The flow tables of `llb_common::flow_table` in the agent. The kernel's memory is mapped, so
//! that the agent walks over a million flows without a system call.

#![expect(unsafe_code, reason = "memory of the kernel is mapped")]

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd as _;
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::atomic::AtomicU64;

use aya::maps::{MapData, MapType};
use bytemuck::Pod;
use llb_common::flow_table::{Line, Words};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::table::Entries;

/// A table with keys `K` and values `V`. Its header is written, so it can be used.
#[derive(Debug)]
pub(super) struct FlowTable<K, V> {
    memory: Memory,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> FlowTable<K, V> {
    /// Maps the table. If the map holds only zeros, it becomes an empty table.
    ///
    /// # Errors
    /// The map is no flow table, or can't be mapped.
    pub(super) fn new(map: &MapData) -> io::Result<Self> {
        let memory = Memory::of(map, ProtFlags::READ | ProtFlags::WRITE)?;
        let table = Self { memory, types: PhantomData };
        // The only random numbers that std gives: the keys of its hasher come from the kernel.
        let hasher = RandomState::new();
        table.words().begin([0, 1, 2].map(|n: u64| hasher.hash_one(n)));
        Ok(table)
    }

    /// Maps a table that somebody else uses, only for reading: a write would end this process. A map that holds only
    /// zeros is empty.
    ///
    /// # Errors
    /// The map is no flow table, or can't be mapped.
    pub(super) fn read_only(map: &MapData) -> io::Result<Self> {
        Ok(Self { memory: Memory::of(map, ProtFlags::READ)?, types: PhantomData })
    }

    /// The table's operations.
    pub(super) fn words(&self) -> Words<'_, K, V> {
        Words::new(self.memory.words())
    }
}

impl<K: Pod, V: Pod> Entries<K, V> for FlowTable<K, V> {
    fn each(&self, work: &mut dyn FnMut(K, V)) -> io::Result<()> {
        self.words().for_each(work);
        Ok(())
    }

    fn value_of(&self, key: &K) -> io::Result<Option<V>> {
        Ok(self.words().get(key))
    }

    fn remove_one(&self, key: &K) -> io::Result<()> {
        self.words().remove(key);
        Ok(())
    }
}

/// Whether a map is a flow table.
pub(super) fn is_flow_table(map: &MapData) -> io::Result<bool> {
    let info = map.info().map_err(io::Error::other)?;
    let kind = info.map_type().map_err(io::Error::other)?;
    Ok(kind == MapType::Array && info.value_size() as usize == size_of::<Line>())
}

/// The mapped memory of a map.
#[derive(Debug)]
struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the pointer is only used as a slice of atomics, which any thread may use, and the mapping
// belongs to the process, not to a thread.
unsafe impl Send for Memory {}
// SAFETY: a shared reference gives only a slice of atomics, which many threads may use at a time.
unsafe impl Sync for Memory {}

impl Memory {
    fn of(map: &MapData, protection: ProtFlags) -> io::Result<Self> {
        if !is_flow_table(map)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the map is no flow table"));
        }
        let lines = map.info().map_err(io::Error::other)?.max_entries() as usize;
        let bytes = lines * size_of::<Line>();
        // SAFETY: with a null address the kernel chooses memory that is not in use, so no memory of
        // this process changes.
        let start = unsafe { mmap(null_mut(), bytes, protection, MapFlags::SHARED, map.fd().as_fd(), 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words: bytes / size_of::<AtomicU64>() })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` words from `start` are mapped, aligned to a page, until `self` is dropped,
        // and the slice lives no longer than that. All access is atomic.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly this range was mapped by `of`, and no slice of it outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}
