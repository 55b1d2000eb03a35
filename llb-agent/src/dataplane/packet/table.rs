// SPDX-License-Identifier: Apache-2.0
//! Maps with keys and values of our own types, read and written many entries at a time. aya
//! can do neither: its keys and values must be of types that implement a trait of aya, and it
//! makes one system call for each entry, where a flow table has a million.
//!
//! It needs `unsafe` because bpf(2) takes addresses of buffers. The sizes of these buffers come
//! from the kernel's own description of the map.

#![expect(unsafe_code, reason = "bpf(2) takes addresses of buffers")]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{Map, MapData, MapType};
use bytemuck::{AnyBitPattern, NoUninit, Pod, bytes_of, bytes_of_mut};

/// How many entries one system call handles; each has at most 128 bytes.
const BATCH: usize = 4096;

/// The kernel copies each CPU's value in whole words.
pub(super) const WORD_BYTES: usize = 8;

// enum bpf_cmd of linux/bpf.h.
const LOOKUP_ELEM: libc::c_int = 1;
const UPDATE_ELEM: libc::c_int = 2;
const DELETE_ELEM: libc::c_int = 3;
const LOOKUP_BATCH: libc::c_int = 24;
const UPDATE_BATCH: libc::c_int = 26;

/// `BPF_NOEXIST`: adds an entry only if its key is not there.
const NOEXIST: u64 = 1;
/// `BPF_EXIST`: replaces an entry only if its key is there.
const EXIST: u64 = 2;

/// The part of `union bpf_attr` for commands on one entry.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct OneAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for commands on many entries.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A map with keys `K` and values `V`, which are not per CPU.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    map: MapData,
    types: PhantomData<fn(K) -> V>,
}

/// What all kinds of tables can do with their entries.
pub(super) trait Entries<K, V> {
    /// Calls `work` with each entry. Entries that come or go meanwhile may be left out.
    fn each(&self, work: &mut dyn FnMut(K, V)) -> io::Result<()>;
    /// The entry of a key as it is now.
    fn value_of(&self, key: &K) -> io::Result<Option<V>>;
    /// Removes an entry, if it is there.
    fn remove_one(&self, key: &K) -> io::Result<()>;

    /// Looks at the entry of each key once more, and removes it at once if `is_over` says so. A walk takes
    /// milliseconds, in which what it found may begin anew.
    fn remove_if(&self, keys: &[K], is_over: &mut dyn FnMut(&K, &V) -> io::Result<bool>) -> io::Result<()> {
        for key in keys {
            if let Some(value) = self.value_of(key)?
                && is_over(key, &value)?
            {
                self.remove_one(key)?;
            }
        }
        Ok(())
    }
}

/// A map as bytes, whatever the types of its entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawMap<'a> {
    fd: BorrowedFd<'a>,
    pub(super) key_bytes: usize,
    pub(super) value_bytes: usize,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// The map with its types.
    ///
    /// # Errors
    /// Its keys or values have other sizes.
    pub(super) fn new(map: MapData) -> io::Result<Self> {
        let raw = RawMap::of(&map)?;
        if (raw.key_bytes, raw.value_bytes) != (size_of::<K>(), size_of::<V>()) {
            let text =
                format!("a map with keys of {} and values of {} bytes", raw.key_bytes, raw.value_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self { map, types: PhantomData })
    }

    pub(super) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::zeroed();
        let attr =
            OneAttr { key: address(bytes_of(key)), value: address(bytes_of_mut(&mut value)), ..self.one() };
        // SAFETY: `key` and `value` are as large as the map's keys and values, which `new` has
        // checked, and both live until the call returns.
        found(unsafe { bpf(LOOKUP_ELEM, &attr) }).map(|is_there| is_there.then_some(value))
    }

    pub(super) fn insert(&self, key: &K, value: &V) -> io::Result<()> {
        let attr = OneAttr { key: address(bytes_of(key)), value: address(bytes_of(value)), ..self.one() };
        // SAFETY: `key` and `value` are as large as the map's keys and values, which `new` has
        // checked, and both live until the call returns.
        unsafe { bpf(UPDATE_ELEM, &attr) }
    }

    /// Replaces the value of an entry. `false`: there is none with this key, so nothing is written.
    pub(super) fn replace(&self, key: &K, value: &V) -> io::Result<bool> {
        let (key, value) = (address(bytes_of(key)), address(bytes_of(value)));
        let attr = OneAttr { key, value, flags: EXIST, ..self.one() };
        // SAFETY: `key` and `value` are as large as the map's keys and values, which `new` has
        // checked, and both live until the call returns.
        found(unsafe { bpf(UPDATE_ELEM, &attr) })
    }

    /// Removes an entry. `true` if it was there.
    pub(super) fn remove(&self, key: &K) -> io::Result<bool> {
        let attr = OneAttr { key: address(bytes_of(key)), ..self.one() };
        // SAFETY: `key` is as large as the map's keys, which `new` has checked, and lives until the
        // call returns.
        found(unsafe { bpf(DELETE_ELEM, &attr) })
    }

    /// Calls `work` with each entry. Entries that come or go meanwhile may be left out.
    pub(super) fn for_each(&self, mut work: impl FnMut(K, V)) -> io::Result<()> {
        RawMap::of(&self.map)?.for_each_batch(|keys, values| {
            // The sizes of this type, which the compiler knows.
            let (key_bytes, value_bytes) = (size_of::<K>(), size_of::<V>());
            for (key, value) in keys.chunks_exact(key_bytes).zip(values.chunks_exact(value_bytes)) {
                work(bytemuck::pod_read_unaligned(key), bytemuck::pod_read_unaligned(value));
            }
            Ok(())
        })
    }

    fn one(&self) -> OneAttr {
        OneAttr { map_fd: fd_number(&self.map), ..OneAttr::default() }
    }
}

impl<K: Pod, V: Pod> Entries<K, V> for Table<K, V> {
    fn each(&self, work: &mut dyn FnMut(K, V)) -> io::Result<()> {
        self.for_each(work)
    }

    fn value_of(&self, key: &K) -> io::Result<Option<V>> {
        self.get(key)
    }

    fn remove_one(&self, key: &K) -> io::Result<()> {
        self.remove(key).map(drop)
    }
}

impl<'a> RawMap<'a> {
    /// The map with the sizes that the kernel tells. An entry of a per-CPU map has a value for each CPU, each of them in
    /// whole words.
    pub(super) fn of(map: &'a MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let value_bytes = info.value_size() as usize;
        let value_bytes = match info.map_type().map_err(io::Error::other)? {
            MapType::PerCpuArray => value_bytes.next_multiple_of(WORD_BYTES) * possible_cpus()?,
            _ => value_bytes,
        };
        Ok(Self { fd: map.fd().as_fd(), key_bytes: info.key_size() as usize, value_bytes })
    }

    /// Calls `work` with the keys and the values of all entries, [`BATCH`] at a time.
    pub(super) fn for_each_batch(
        &self,
        mut work: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.batches(BATCH, |keys, values| work(keys, values).map(|()| true))
    }

    /// Calls `work` with the keys and the values of entries, so many at a time, until there are no more or `work` has
    /// enough.
    pub(super) fn batches(
        &self,
        mut most: usize,
        mut work: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        // Where the kernel goes on: a key, or the number of a bucket.
        let mut mark = vec![0; self.key_bytes.max(4)];
        let mut is_first = true;
        loop {
            let (mut keys, mut values) = (vec![0; most * self.key_bytes], vec![0; most * self.value_bytes]);
            let mut next = mark.clone();
            let mut attr = BatchAttr {
                in_batch: if is_first { 0 } else { address(&mark) },
                out_batch: address(next.as_mut_slice()),
                keys: address(keys.as_mut_slice()),
                values: address(values.as_mut_slice()),
                count: most as u32,
                map_fd: self.fd.as_raw_fd() as u32,
                ..BatchAttr::default()
            };
            // SAFETY: `keys` and `values` have room for `count` entries of the map's sizes, `mark` and
            // `next` for a key or the number of a bucket, and all live until the call returns.
            let result = unsafe { bpf_mut(LOOKUP_BATCH, &mut attr) };
            let is_last = match result {
                Ok(()) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // A bucket has more entries than fit.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && most < BATCH << 8 => {
                    most *= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = attr.count as usize;
            let goes_on = work(&keys[..count * self.key_bytes], &values[..count * self.value_bytes])?;
            if is_last || !goes_on {
                return Ok(());
            }
            (mark, is_first) = (next, false);
        }
    }

    /// Adds or replaces entries.
    pub(super) fn insert_all(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let count = keys.len() / self.key_bytes;
        if values.len() / self.value_bytes < count {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "fewer values than keys"));
        }
        let mut attr = BatchAttr {
            keys: address(keys),
            values: address(values),
            count: count as u32,
            map_fd: self.fd.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        // SAFETY: `keys` and `values` hold at least `count` entries of the map's sizes, as checked
        // above, and live until the call returns.
        unsafe { bpf_mut(UPDATE_BATCH, &mut attr) }
    }

    /// Adds the entries whose key is not there yet. One by one, as the kernel has no such flag
    /// for many entries.
    pub(super) fn insert_new(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        for (key, value) in keys.chunks_exact(self.key_bytes).zip(values.chunks_exact(self.value_bytes)) {
            let attr = OneAttr {
                map_fd: self.fd.as_raw_fd() as u32,
                key: address(key),
                value: address(value),
                flags: NOEXIST,
                ..OneAttr::default()
            };
            // SAFETY: the chunks `key` and `value` have the map's sizes and live until the call returns.
            match unsafe { bpf(UPDATE_ELEM, &attr) } {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The data of a map of any kind that is used here.
pub(super) fn data(map: Map) -> Option<MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data) => Some(data),
        _ => None,
    }
}

/// How many CPUs a per-CPU map has values for.
pub(super) fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map(|cpus| cpus.get() as usize).map_err(|(_, error)| error)
}

fn fd_number(map: &MapData) -> u32 {
    map.fd().as_fd().as_raw_fd() as u32
}

fn address<T: NoUninit + AnyBitPattern>(bytes: &[T]) -> u64 {
    bytes.as_ptr() as u64
}

/// `false` if the kernel found no such key.
fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// # Safety
/// The addresses in `attr` must point to buffers that are as large as `command` expects for this
/// map, and that live until the call returns.
unsafe fn bpf(command: libc::c_int, attr: &OneAttr) -> io::Result<()> {
    let mut attr = *attr;
    // SAFETY: `attr` is a local copy of this size, and the caller vouches for the addresses in it.
    unsafe { call(command, (&raw mut attr).cast(), size_of::<OneAttr>()) }
}

/// # Safety
/// The addresses in `attr` must point to buffers that are as large as `command` expects for `count`
/// entries of this map, and that live until the call returns.
unsafe fn bpf_mut(command: libc::c_int, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: `attr` is a reference to this size, and the caller vouches for the addresses in it.
    unsafe { call(command, std::ptr::from_mut(attr).cast(), size_of::<BatchAttr>()) }
}

/// # Safety
/// `attr` must point to `bytes` bytes. The addresses in it must point to buffers that are as large as
/// `command` expects, and that live until the call returns.
unsafe fn call(command: libc::c_int, attr: *mut libc::c_void, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller vouches for `attr`, its size and the addresses in it.
    if unsafe { libc::syscall(libc::SYS_bpf, command, attr, bytes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
