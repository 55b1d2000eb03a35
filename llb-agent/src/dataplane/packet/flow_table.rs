// SPDX-License-Identifier: Apache-2.0
//! The flow tables of `llb_common::flow_table` as the agent has them: the kernel's
//! own memory, mapped, so that a million flows are looked through without a system call.

#![expect(unsafe_code, reason = "memory is mapped")]

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

/// A table with keys `K` and values `V`, which can be used: it has its header.
#[derive(Debug)]
pub(super) struct FlowTable<K, V> {
    memory: Memory,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> FlowTable<K, V> {
    /// A map of zeros is made an empty table.
    ///
    /// # Errors
    /// The map is no flow table, or can't be mapped.
    pub(super) fn new(map: &MapData) -> io::Result<Self> {
        let memory = Memory::of(map)?;
        let table = Self { memory, types: PhantomData };
        // std has no other random numbers; the kernel made the keys of its hasher.
        let hasher = RandomState::new();
        table.words().begin([0, 1, 2].map(|n: u64| hasher.hash_one(n)));
        Ok(table)
    }

    /// All that can be done with it.
    pub(super) fn words(&self) -> Words<'_, K, V> {
        Words::new(self.memory.words())
    }
}

impl<K: Pod, V: Pod> Entries<K, V> for FlowTable<K, V> {
    fn each(&self, work: &mut dyn FnMut(K, V)) -> io::Result<()> {
        self.words().for_each(work);
        Ok(())
    }

    fn remove_all(&self, keys: &[K]) -> io::Result<()> {
        for key in keys {
            self.words().remove(key);
        }
        Ok(())
    }
}

/// Whether a map is a flow table.
pub(super) fn is_flow_table(map: &MapData) -> io::Result<bool> {
    let info = map.info().map_err(io::Error::other)?;
    let kind = info.map_type().map_err(io::Error::other)?;
    Ok(kind == MapType::Array && info.value_size() as usize == size_of::<Line>())
}

/// The lines of a map.
#[derive(Debug)]
struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: it is used only as a slice of atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn of(map: &MapData) -> io::Result<Self> {
        if !is_flow_table(map)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the map is no flow table"));
        }
        let lines = map.info().map_err(io::Error::other)?.max_entries() as usize;
        let bytes = lines * size_of::<Line>();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new memory, that nothing else of this process has.
        let start = unsafe { mmap(null_mut(), bytes, protection, MapFlags::SHARED, map.fd().as_fd(), 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words: bytes / size_of::<AtomicU64>() })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: as many words are mapped until this is dropped.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: no slice of it is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}
