// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The tables of `llb_common::flow_table` in eBPF. An array map is their lines; a
//! change of tags is one instruction, in assembler, as this target's `core` has none.

use core::marker::PhantomData;

use bytemuck::Pod;
use llb_common::conntrack::{ForwardEntry, ForwardKey, ReplyEntry, ReplyKey};
use llb_common::flow_table::{self, Header, KEY_WORDS, Key, Line, Lines, VALUE_BYTES};

use crate::maps::{FLOWS, REPLIES, Table};
use crate::window::hide;

/// Flows that have their place.
#[inline(always)]
pub(crate) fn flows() -> Placed<ForwardKey, ForwardEntry> {
    Placed { lines: &FLOWS, line_of: flow_line, types: PhantomData }
}

/// The entries of their replies.
#[inline(always)]
pub(crate) fn replies() -> Placed<ReplyKey, ReplyEntry> {
    Placed { lines: &REPLIES, line_of: reply_line, types: PhantomData }
}

/// A table with the types of its keys and values, both of whole words.
pub(crate) struct Placed<K, V> {
    lines: &'static Table,
    line_of: extern "C" fn(*const K) -> u32,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Placed<K, V> {
    const SIZE: () =
        assert!(size_of::<V>() <= VALUE_BYTES && size_of::<V>().is_multiple_of(size_of::<u64>()));

    /// The value of a key. It may become another flow's once this one's is
    /// removed, but stays memory that may be read and written.
    #[inline(always)]
    pub(crate) fn find(&self, key: &K) -> Option<*mut V> {
        let words = bytemuck::cast(*key);
        let found = match flow_table::find_at_home(self, &words) {
            Some((line, _)) => line,
            None => flow_table::find(self, &words).map_or(u32::MAX, |(line, _)| line),
        };
        self.lines.get_ptr_mut(hide(found)).map(Self::value)
    }

    /// The same in less code, for where time does not matter.
    #[inline(always)]
    pub(crate) fn find_by_tag(&self, key: &K) -> Option<*mut V> {
        self.lines.get_ptr_mut((self.line_of)(key)).map(Self::value)
    }

    #[inline(always)]
    fn value(line: *mut Line) -> *mut V {
        // SAFETY: behind the key, in the same line.
        unsafe { line.cast::<u64>().add(KEY_WORDS).cast() }
    }

    /// The tags of a bucket.
    #[inline(always)]
    fn tags_at(&self, bucket: u32) -> Option<*mut u64> {
        let line = self.lines.get_ptr_mut(1 + bucket / 8)?;
        // SAFETY: one of the eight words of the line.
        Some(unsafe { line.cast::<u64>().add((bucket % 8) as usize) })
    }
}

/// What takes more than a few instructions. These are global functions: the verifier
/// follows each once, for any arguments, where it would follow others for each call.
macro_rules! functions {
    ($table:ident, $key:ty, $value:ty, $line_of:ident, $insert:ident, $remove:ident) => {
        /// See [`flow_table::find`]: the number of the line, or one that no table has.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $line_of(key: *const $key) -> u32 {
            // SAFETY: null or of its type, which the verifier sees to.
            let Some(key) = (unsafe { key.as_ref() }) else { return u32::MAX };
            flow_table::find(&$table(), bytemuck::cast_ref(key)).map_or(u32::MAX, |(line, _)| line)
        }

        /// See [`flow_table::insert`]: an [`Inserted`] as a number.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $insert(key: *const $key, value: *const $value) -> u32 {
            // SAFETY: as above.
            let (Some(key), Some(value)) = (unsafe { (key.as_ref(), value.as_ref()) }) else { return 0 };
            flow_table::insert(&$table(), bytemuck::cast_ref(key), value) as u32
        }

        /// See [`flow_table::remove`]: 1, else 0.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $remove(key: *const $key) -> u32 {
            // SAFETY: as above.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            u32::from(flow_table::remove(&$table(), bytemuck::cast_ref(key)))
        }
    };
}
functions!(flows, ForwardKey, ForwardEntry, flow_line, insert_flow, remove_flow);
functions!(replies, ReplyKey, ReplyEntry, reply_line, insert_reply, remove_reply);

impl<K: Pod, V: Pod> Lines for Placed<K, V> {
    type Place = (u32, *mut Line);
    type Value = V;

    #[inline(always)]
    fn header(&self) -> Header {
        let Some(line) = self.lines.get(0) else {
            return Header { buckets: 0, first_place: 0, seeds: [0; 3] };
        };
        // SAFETY: shorter than a line.
        unsafe { core::ptr::from_ref(line).cast::<Header>().read() }
    }

    #[inline(always)]
    fn tags(&self, bucket: u32) -> u64 {
        // SAFETY: memory of the map; volatile, since others write it.
        self.tags_at(bucket).map_or(0, |tags| unsafe { tags.read_volatile() })
    }

    #[inline(always)]
    fn exchange_tags(&self, bucket: u32, old: u64, new: u64) -> bool {
        self.tags_at(bucket).is_some_and(|tags| exchange(tags, old, new) == old)
    }

    #[inline(always)]
    fn flip_tags(&self, bucket: u32, bits: u64) {
        if let Some(tags) = self.tags_at(bucket) {
            flip(tags, bits);
        }
    }

    #[inline(always)]
    fn place(&self, line: u32) -> Option<Self::Place> {
        Some((line, self.lines.get_ptr_mut(line)?))
    }

    #[inline(always)]
    fn key(&self, (_, place): Self::Place) -> Key {
        // SAFETY: the first words of a line.
        unsafe { place.cast::<Key>().read() }
    }

    #[inline(always)]
    fn write(&self, (_, place): Self::Place, key: &Key, value: &V) {
        let () = Self::SIZE;
        let (place, value) = (place.cast::<u64>(), core::ptr::from_ref(value).cast::<u64>());
        // Word by word: eBPF would call a function that copies bytes.
        for n in 0..size_of::<V>() / size_of::<u64>() {
            // SAFETY: a word of the value, and the rest of the line has as many.
            unsafe { place.add(KEY_WORDS + n).write_volatile(value.add(n).read()) };
        }
        let [first, second, last] = *key;
        // SAFETY: the first words of a line.
        unsafe {
            place.write_volatile(first);
            place.add(1).write_volatile(second);
            // Zero, as `clear` has left it, and ordered behind the rest.
            flip(place.add(2), last);
        }
    }

    #[inline(always)]
    fn clear(&self, (_, place): Self::Place) {
        // SAFETY: the last word of the key.
        unsafe { place.cast::<u64>().add(KEY_WORDS - 1).write_volatile(0) };
    }
}

/// What was there before; `new` is there now if that is `old`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let found;
    // SAFETY: a word of a map. The kernel orders it with everything before and behind it.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inlateout("r0") old => found,
            options(nostack),
        );
    }
    found
}

/// Inverts bits.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn flip(word: *mut u64, bits: u64) {
    // SAFETY: as above; so it is ordered that asks for the former value.
    unsafe {
        core::arch::asm!(
            "{bits} = atomic_fetch_xor((u64 *)({word} + 0), {bits})",
            word = in(reg) word,
            bits = inout(reg) bits => _,
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "bpf"))]
fn exchange(_word: *mut u64, old: u64, _new: u64) -> u64 {
    old
}

#[cfg(not(target_arch = "bpf"))]
fn flip(_word: *mut u64, _bits: u64) {}
