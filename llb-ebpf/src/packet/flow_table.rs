// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The tables of `llb_common::flow_table` in eBPF. The lines of a table are the values of an array map. A
//! change of tags is one atomic instruction, written in assembler because `core` has no atomics for this
//! target.

use core::marker::PhantomData;

use bytemuck::Pod;
use llb_common::conntrack::{ForwardEntry, ForwardKey, ReplyEntry, ReplyKey};
use llb_common::flow_table::{self, Header, Inserted, KEY_WORDS, Key, Line, Lines, VALUE_BYTES};

use crate::maps::{FLOWS, REPLIES, TableLines};
use crate::outcome::Done;
use crate::window::hide;

/// The forward entries of flows that are no longer pending.
#[inline(always)]
pub(crate) fn flows() -> Placed<ForwardKey, ForwardEntry> {
    Placed { lines: &FLOWS, line_of: flow_line, types: PhantomData }
}

/// The reply entries of flows that are no longer pending.
#[inline(always)]
pub(crate) fn replies() -> Placed<ReplyKey, ReplyEntry> {
    Placed { lines: &REPLIES, line_of: reply_line, types: PhantomData }
}

/// A table with the types of its keys and values. Both consist of whole words.
pub(crate) struct Placed<K, V> {
    lines: &'static TableLines,
    line_of: extern "C" fn(*const K) -> u32,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Placed<K, V> {
    const SIZE: () =
        assert!(size_of::<V>() <= VALUE_BYTES && size_of::<V>().is_multiple_of(size_of::<u64>()));

    /// The value of a key. If the flow is removed, the memory may become another flow's, but it stays valid
    /// until the program returns.
    #[inline(always)]
    pub(crate) fn find(&self, key: &K) -> Option<*mut V> {
        let words = bytemuck::cast(*key);
        let found = match flow_table::find_at_home(self, &words) {
            Some((line, _)) => line,
            None => flow_table::find(self, &words).map_or(u32::MAX, |(line, _)| line),
        };
        self.lines.get_ptr_mut(hide(found)).map(Self::value)
    }

    /// The same in less code, for the slow path.
    #[inline(always)]
    pub(crate) fn find_by_tag(&self, key: &K) -> Option<*mut V> {
        self.lines.get_ptr_mut((self.line_of)(key)).map(Self::value)
    }

    #[inline(always)]
    fn value(line: *mut Line) -> *mut V {
        // SAFETY: a line has `LINE_WORDS` words, and `KEY_WORDS` is less, so the result is inside the line.
        unsafe { line.cast::<u64>().add(KEY_WORDS).cast() }
    }

    /// Where the tags of a bucket are: eight buckets share one of the lines behind the header.
    #[inline(always)]
    fn tags_at(&self, bucket: u32) -> Option<*mut u64> {
        let line = self.lines.get_ptr_mut(1 + bucket / 8)?;
        // SAFETY: a line has eight words, and the index is less than eight.
        Some(unsafe { line.cast::<u64>().add((bucket % 8) as usize) })
    }
}

/// The functions of one table that take more than a few instructions. They are global functions: the verifier
/// follows each of them once, for any arguments, where it would follow a static function again for each call.
///
/// A global function takes pointers that may be null. For each caller the verifier checks that a pointer is
/// null or points to readable memory of the size of its type, and it makes the function check for null.
macro_rules! global_functions {
    ($table:ident, $key:ty, $value:ty, $line_of:ident, $insert:ident, $remove:ident) => {
        /// See [`flow_table::find`]: the number of the line, or `u32::MAX`, which no table has.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $line_of(key: *const $key) -> u32 {
            // SAFETY: null or readable memory of the size of a key, which the verifier checks for each
            // caller.
            let Some(key) = (unsafe { key.as_ref() }) else { return u32::MAX };
            flow_table::find(&$table(), bytemuck::cast_ref(key)).map_or(u32::MAX, |(line, _)| line)
        }

        /// See [`flow_table::insert`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $insert(key: *const $key, value: *const $value) -> Inserted {
            // SAFETY: each is null or readable memory of the size of its type, which the verifier checks for
            // each caller.
            let (Some(key), Some(value)) = (unsafe { (key.as_ref(), value.as_ref()) }) else {
                return Inserted::Full;
            };
            flow_table::insert(&$table(), bytemuck::cast_ref(key), value)
        }

        /// See [`flow_table::remove`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $remove(key: *const $key) -> Done {
            // SAFETY: null or readable memory of the size of a key, which the verifier checks for each
            // caller.
            let Some(key) = (unsafe { key.as_ref() }) else { return Done::No };
            flow_table::remove(&$table(), bytemuck::cast_ref(key)).into()
        }
    };
}
global_functions!(flows, ForwardKey, ForwardEntry, flow_line, insert_flow, remove_flow);
global_functions!(replies, ReplyKey, ReplyEntry, reply_line, insert_reply, remove_reply);

impl<K: Pod, V: Pod> Lines for Placed<K, V> {
    type Place = (u32, *mut Line);
    type Value = V;

    #[inline(always)]
    fn header(&self) -> Header {
        let Some(line) = self.lines.get(0) else {
            return Header { buckets: 0, first_place: 0, seeds: [0; 3] };
        };
        // SAFETY: a header is shorter than a line, and any bytes are a valid one.
        unsafe { core::ptr::from_ref(line).cast::<Header>().read() }
    }

    #[inline(always)]
    fn tags(&self, bucket: u32) -> u64 {
        // SAFETY: `tags_at` gives a word of a map's value, which is valid until the program returns. The read
        // is volatile because other CPUs and the agent write the word.
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
        // SAFETY: a key is the first `KEY_WORDS` words of a line, and `place` points to a line of the map.
        unsafe { place.cast::<Key>().read() }
    }

    #[inline(always)]
    fn write(&self, (_, place): Self::Place, key: &Key, value: &V) {
        let () = Self::SIZE;
        let (place, value) = (place.cast::<u64>(), core::ptr::from_ref(value).cast::<u64>());
        // Word by word: the compiler would otherwise call a function that copies bytes.
        for n in 0..size_of::<V>() / size_of::<u64>() {
            // SAFETY: `n` counts the words of the value, and `SIZE` asserts that they fit into the line
            // behind the key.
            unsafe { place.add(KEY_WORDS + n).write_volatile(value.add(n).read()) };
        }
        let [first, second, last] = *key;
        // SAFETY: a key is the first `KEY_WORDS` words of a line, and `place` points to a line of the map.
        unsafe {
            place.write_volatile(first);
            place.add(1).write_volatile(second);
            // The word is zero, as `clear` left it, so this stores `last`. The exchange is ordered after the
            // writes above.
            flip(place.add(2), last);
        }
    }

    #[inline(always)]
    fn clear(&self, (_, place): Self::Place) {
        // SAFETY: the word is the last of the key, and `place` points to a line of the map.
        unsafe { place.cast::<u64>().add(KEY_WORDS - 1).write_volatile(0) };
    }
}

/// Stores `new` if the word is `old`. Returns what the word was.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let found;
    // SAFETY: `word` is an aligned word of a map's value. The kernel orders a compare-and-exchange with all
    // accesses before and after it.
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

/// Inverts bits of a word.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn flip(word: *mut u64, bits: u64) {
    // SAFETY: `word` is an aligned word of a map's value. The instruction fetches the former value, which is
    // not used, because only then does the kernel order it with all accesses before and after it.
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
