// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! A table in the memory of a process: the agent's, which maps the kernel's, or a test's.

use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use bytemuck::{AnyBitPattern, NoUninit, Pod, bytes_of, bytes_of_mut, pod_read_unaligned};

use super::change::{Inserted, insert, remove};
use super::find::{find, find_at_home, place};
use super::layout::{BUCKET_PLACES, Header, KEY_WORDS, Key, LINE_WORDS, VALUE_BYTES};
use super::memory::Lines;
use super::tags::{BUSY, FREE, at};

/// The lines of a table as words, with keys `K` of 24 bytes and values `V` of at most 40 bytes. Other threads
/// and the eBPF programs may change them at any time.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a, K, V> {
    words: &'a [AtomicU64],
    types: PhantomData<fn(K) -> V>,
}

impl<'a, K: Pod, V: Pod> Words<'a, K, V> {
    const SIZES: () = assert!(size_of::<K>() == size_of::<Key>() && size_of::<V>() <= VALUE_BYTES);

    /// A table in `words`, which are whole lines.
    pub fn new(words: &'a [AtomicU64]) -> Self {
        let () = Self::SIZES;
        Self { words, types: PhantomData }
    }

    /// Writes the header, so that the table can be used. A table that has a header stays as it is.
    pub fn begin(&self, seeds: Key) {
        if self.header().buckets == 0 {
            let header = Header::new((self.words.len() / LINE_WORDS) as u32, seeds);
            let words: [u64; 4] = bytemuck::cast(header);
            // From the last word to the first, which has the number of buckets: with it, the table exists.
            for (n, word) in words.into_iter().enumerate().rev() {
                self.word(n).inspect(|place| place.store(word, Ordering::Release));
            }
        }
    }

    /// The number of buckets.
    pub fn buckets(&self) -> u32 {
        self.header().buckets
    }

    /// The number of places. No more flows than that fit.
    pub fn places(&self) -> u32 {
        self.buckets() * BUCKET_PLACES
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<V> {
        let key = bytemuck::cast(*key);
        find_at_home(self, &key).or_else(|| find(self, &key)).map(|place| self.value(place))
    }

    /// Inserts a key as [`insert`] does. `true`: it is there.
    pub fn insert(&self, key: &K, value: &V) -> bool {
        insert(self, &bytemuck::cast(*key), value) == Inserted::Placed
    }

    /// Removes a key as [`remove`] does.
    pub fn remove(&self, key: &K) -> bool {
        remove(self, &bytemuck::cast(*key))
    }

    /// Calls `work` for each key. A key that is inserted or removed meanwhile may be left out. `work` may
    /// remove keys.
    pub fn for_each(&self, work: impl FnMut(K, V)) {
        self.for_each_in(0..u32::MAX, work);
    }

    /// The same for a part of the buckets.
    pub fn for_each_in(&self, buckets: Range<u32>, mut work: impl FnMut(K, V)) {
        let header = self.header();
        for bucket in buckets.start..buckets.end.min(header.buckets) {
            let tags = self.tags(bucket);
            if tags == 0 {
                continue;
            }
            for index in
                (0..BUCKET_PLACES).filter(|index| ![FREE, BUSY].contains(&(tags >> (8 * index) & 0xff)))
            {
                if let Some(place) = place(self, &header, bucket, index) {
                    let (key, value) = (self.key(place), self.value(place));
                    // If the flow was removed while it was read, what was read may be half another's.
                    if self.tags(bucket) & at(index, 0xff) == tags & at(index, 0xff) {
                        work(bytemuck::cast(key), value);
                    }
                }
            }
        }
    }

    fn value(&self, place: usize) -> V {
        let words: [u64; VALUE_BYTES / 8] = self.read(place + KEY_WORDS);
        pod_read_unaligned(&bytes_of(&words)[..size_of::<V>()])
    }

    fn read<const N: usize>(&self, first: usize) -> [u64; N]
    where
        [u64; N]: AnyBitPattern + NoUninit,
    {
        core::array::from_fn(|n| self.load(first + n))
    }

    fn load(&self, word: usize) -> u64 {
        self.word(word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn word(&self, word: usize) -> Option<&AtomicU64> {
        self.words.get(word)
    }
}

/// The number of the word that has the tags of a bucket.
const fn tags_at(bucket: u32) -> usize {
    LINE_WORDS + bucket as usize
}

impl<K: Pod, V: Pod> Lines for Words<'_, K, V> {
    /// The number of the place's first word.
    type Place = usize;
    type Value = V;

    fn header(&self) -> Header {
        bytemuck::cast(self.read::<4>(0))
    }

    fn tags(&self, bucket: u32) -> u64 {
        self.load(tags_at(bucket))
    }

    fn exchange_tags(&self, bucket: u32, old: u64, new: u64) -> bool {
        let exchange =
            |tags: &AtomicU64| tags.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        self.word(tags_at(bucket)).is_some_and(exchange)
    }

    fn flip_tags(&self, bucket: u32, bits: u64) {
        self.word(tags_at(bucket)).inspect(|tags| {
            tags.fetch_xor(bits, Ordering::SeqCst);
        });
    }

    fn place(&self, line: u32) -> Option<usize> {
        let first = line as usize * LINE_WORDS;
        (first + LINE_WORDS <= self.words.len()).then_some(first)
    }

    fn key(&self, place: usize) -> Key {
        self.read(place)
    }

    fn write(&self, place: usize, key: &Key, value: &V) {
        let mut padded = [0_u64; VALUE_BYTES / 8];
        bytes_of_mut(&mut padded)[..size_of::<V>()].copy_from_slice(bytes_of(value));
        // The value first, and the last word of the key last.
        let [first, second, last] = *key;
        let words = padded.into_iter().enumerate().map(|(n, word)| (KEY_WORDS + n, word));
        for (n, word) in words.chain([(0, first), (1, second), (2, last)]) {
            self.word(place + n).inspect(|place| place.store(word, Ordering::Release));
        }
    }

    fn clear(&self, place: usize) {
        self.word(place + KEY_WORDS - 1).inspect(|word| word.store(0, Ordering::Release));
    }
}
