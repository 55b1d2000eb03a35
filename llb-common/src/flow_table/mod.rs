// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The table of flows that have their place: made for one question, "who is
//! this packet's flow?", asked for each packet, of a million flows of which none is in
//! the CPU's caches. The kernel's hash map walks a list through three or four
//! lines of memory for that, on as many pages; here it is one, or one behind a byte
//! that mostly is in the caches.
//!
//! ```text
//!   line 0    header: number of buckets, seeds
//!   lines     tags: 8 bytes for each bucket, one for each of its 8 places
//!   lines     places: a line each, key and value, 8 of them for each bucket
//!
//!   key --hash--> bucket, other bucket, tag, own place in the bucket
//!                 the own place: has it the key? Else:
//!                 tags of the buckets: which places may have it? (1 of 128 says so wrongly)
//!                 the place: has it the key?
//! ```
//!
//! A flow is in one of two buckets, which its hash names (Azar et al., *Balanced
//! Allocations*, 1994; tags as in Swiss tables and MemC3): in the first one if at
//! most 6 of its 8 places are taken, else in the emptier one.
//!
//! Nobody waits for anybody, neither CPUs nor the agent, which has the same
//! memory mapped. A place belongs to whoever has changed its tag, by an exchange
//! of its bucket's tags:
//!
//! ```text
//!   FREE --insert: exchange--> BUSY --value and key written--> tag
//!   tag  --remove: exchange--> BUSY --is it the key? then it is cleared--> FREE, else the tag again
//! ```
//!
//! - A place has a key if the last word of that is not zero: it is written last and cleared first,
//!   so who looks at a flow's own place need not ask for tags.
//! - Who has inserted a key and sees another copy takes the later one away, in the order of
//!   look-up: of those that came at once, one stays.
//! - Who has found a place may use it while its flow is removed, and another gets
//!   it: what it then reads or writes is of that flow. It is so with the kernel's
//!   own hash maps.
//! - An agent that is killed between the two steps of a removal leaves one place BUSY
//!   for as long as the map lives; a program can't be.
//!
//! All decisions are here, for both sides; how memory is reached is in [`Lines`].

#[cfg(not(target_arch = "bpf"))]
mod words;
#[cfg(not(target_arch = "bpf"))]
pub use words::Words;

#[cfg(test)]
mod tests;

use bytemuck::{Pod, Zeroable};

/// Words of a line of the cache, 64 bytes.
pub const LINE_WORDS: usize = 8;
/// Words of a key.
pub const KEY_WORDS: usize = 3;
/// Bytes that are left for a value.
pub const VALUE_BYTES: usize = size_of::<Line>() - size_of::<Key>();
/// Places of a bucket: one for each byte of a word.
pub const BUCKET_PLACES: u32 = 8;

/// What a key is to the table: 24 bytes, of which the last word is never zero.
pub type Key = [u64; KEY_WORDS];

/// A value of the array map that the table is: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u64; LINE_WORDS]);

/// Line 0: what whoever looks up must know. 32 bytes, and zeros behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// 0: there is no table yet; nothing is found, and nothing fits.
    pub buckets: u32,
    /// The line of the first place.
    pub first_place: u32,
    /// Random, so that nobody who chooses keys can fill a bucket: one for each word of a key.
    pub seeds: Key,
}

impl Header {
    /// Of a table with so many lines.
    pub const fn new(lines: u32, seeds: Key) -> Self {
        // 8 buckets have one line of tags and 64 places.
        let behind = lines.saturating_sub(1);
        let (groups, rest) = (behind / (8 * BUCKET_PLACES + 1), behind % (8 * BUCKET_PLACES + 1));
        let buckets = 8 * groups + rest.saturating_sub(1) / BUCKET_PLACES;
        Self { buckets, first_place: 1 + buckets.div_ceil(8), seeds }
    }
}

/// Lines of a table that has room for so many flows, and a place for three more
/// for each four. Then 1 in 6,000 finds both of its buckets full.
pub const fn lines(flows: u32) -> u32 {
    let places = flows as u64 + (flows as u64 * 3).div_ceil(4);
    let buckets = places.div_ceil(BUCKET_PLACES as u64);
    let lines = 1 + buckets.div_ceil(8) + buckets * BUCKET_PLACES as u64;
    if lines > u32::MAX as u64 { u32::MAX } else { lines as u32 }
}

/// The tag of a place that has nothing.
const FREE: u64 = 0;
/// Of one that is being written.
const BUSY: u64 = 1;
/// A bit of all others.
const TAKEN: u64 = 0x80;
/// With this many places free, a bucket takes a flow without a look at the other.
const ENOUGH_FREE: u32 = 2;
/// Places of a bucket that may have the same tag: so many are compared. A flow
/// that would be one more goes to its other bucket.
const MOST_ALIKE: u32 = 2;
/// How often a removal is tried: each time that it fails, another change of the bucket has succeeded.
const MOST_TRIES: u32 = 4;

/// Every byte.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Memory of a table. Lines that are not there are no reason to panic: what is
/// read there is nothing, what is written is lost.
pub trait Lines {
    /// A line of a place that is there.
    type Place: Copy;
    /// What stands behind a key: [`VALUE_BYTES`] at most.
    type Value;

    /// Line 0.
    fn header(&self) -> Header;
    /// The tags of a bucket, the first place's in the lowest byte.
    fn tags(&self, bucket: u32) -> u64;
    /// Replaces a bucket's tags if they are still `old`; all writes before it
    /// are seen by whoever sees it. `false`: they are not.
    fn exchange_tags(&self, bucket: u32, old: u64, new: u64) -> bool;
    /// Changes those bits of a bucket's tags that are set in `bits`, as ordered.
    fn flip_tags(&self, bucket: u32, bits: u64);
    /// The place in a line.
    fn place(&self, line: u32) -> Option<Self::Place>;
    /// Its key.
    fn key(&self, place: Self::Place) -> Key;
    /// Writes both, the last word of the key when all else can be seen.
    fn write(&self, place: Self::Place, key: &Key, value: &Self::Value);
    /// Makes the last word of a key zero.
    fn clear(&self, place: Self::Place);
}

/// Where a key may be.
#[derive(Clone, Copy)]
struct Home {
    header: Header,
    buckets: [u32; 2],
    /// In its lowest byte.
    tag: u64,
    /// Which place of its first bucket it has, if that was free.
    index: u32,
}

impl Home {
    #[inline(always)]
    fn of(lines: &impl Lines, key: &Key) -> Self {
        let header = lines.header();
        let hash = hash(key, &header.seeds);
        let other = mix(hash);
        let bucket = |hash: u64| (hash >> 32).wrapping_mul(u64::from(header.buckets)) >> 32;
        let buckets = [bucket(hash) as u32, bucket(other) as u32];
        // The bits that say least about the buckets.
        let (tag, index) = (other & (TAKEN - 1) | TAKEN, (other >> 7) as u32 % BUCKET_PLACES);
        Self { header, buckets, tag, index }
    }
}

/// Of its higher half: whoever does not know the seeds can't tell which keys have the
/// same one (multilinear hashing; Lemire and Kaser, *Strongly universal string
/// hashing is fast*, 2014). Its three multiplications do not wait for each other.
#[inline(always)]
const fn hash([a, b, c]: &Key, [x, y, z]: &Key) -> u64 {
    // An even seed would lose the key's highest bit.
    let [a, b, c] = [a.wrapping_mul(*x | 1), b.wrapping_mul(*y | 1), c.wrapping_mul(*z | 1)];
    a.wrapping_add(b).wrapping_add(c)
}

/// Bits of both halves that say nothing of where the higher one leads.
#[inline(always)]
const fn mix(hash: u64) -> u64 {
    let mixed = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// The highest bit of each byte of `tags` that is `tag`, and no other bits.
#[inline(always)]
const fn matches(tags: u64, tag: u64) -> u64 {
    let different = tags ^ tag.wrapping_mul(EACH);
    let rest = !(TAKEN * EACH);
    !(((different & rest).wrapping_add(rest)) | different | rest)
}

/// Which byte the lowest bit of [`matches`] is in.
#[inline(always)]
const fn first_of(matches: u64) -> u32 {
    let lowest = matches.isolate_lowest_one() >> 7;
    // Moves this constant up by as many bytes; its highest one is the number then.
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

/// A byte at a place.
#[inline(always)]
const fn at(index: u32, byte: u64) -> u64 {
    byte << (8 * (index & 7))
}

/// The place that has a key, if that is its own: most are there, and no tag
/// need be asked for, which would be one more wait for memory.
#[inline(always)]
pub fn find_at_home<L: Lines>(lines: &L, key: &Key) -> Option<L::Place> {
    let home = Home::of(lines, key);
    let place = place(lines, &home.header, home.buckets[0], home.index)?;
    is_same(&lines.key(place), key).then_some(place)
}

/// The place that has a key, wherever it is.
#[inline(always)]
pub fn find<L: Lines>(lines: &L, key: &Key) -> Option<L::Place> {
    find_at(lines, key, &Home::of(lines, key), None).map(|(_, place)| place)
}

/// Where a place is: its bucket, and its number there.
type Position = (u32, u32);

/// The first place that has a key, but for the one at a position.
#[inline(always)]
fn find_at<L: Lines>(
    lines: &L,
    key: &Key,
    home: &Home,
    without: Option<Position>,
) -> Option<(Position, L::Place)> {
    let [first, second] = home.buckets;
    find_in(lines, key, home, first, without).or_else(|| find_in(lines, key, home, second, without))
}

#[inline(always)]
fn find_in<L: Lines>(
    lines: &L,
    key: &Key,
    home: &Home,
    bucket: u32,
    without: Option<Position>,
) -> Option<(Position, L::Place)> {
    let mut left = matches(lines.tags(bucket), home.tag);
    if let Some((other, index)) = without
        && other == bucket
    {
        left &= !at(index, 0xff);
    }
    for _ in 0..MOST_ALIKE {
        if left == 0 {
            break;
        }
        let index = first_of(left);
        let place = place(lines, &home.header, bucket, index)?;
        if is_same(&lines.key(place), key) {
            return Some(((bucket, index), place));
        }
        left &= left.wrapping_sub(1);
    }
    None
}

/// Word by word: eBPF would call a function that compares bytes.
#[inline(always)]
const fn is_same([a, b, c]: &Key, [x, y, z]: &Key) -> bool {
    (*a ^ *x) | (*b ^ *y) | (*c ^ *z) == 0
}

#[inline(always)]
fn place<L: Lines>(lines: &L, header: &Header, bucket: u32, index: u32) -> Option<L::Place> {
    lines.place(header.first_place.wrapping_add(bucket.wrapping_mul(BUCKET_PLACES)).wrapping_add(index))
}

/// What became of a key that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Inserted {
    /// Both of its buckets are full.
    Full = 0,
    /// It is there. If it was before, it keeps its value, since nobody owns its place.
    Placed = 1,
    /// Another change came in between: whoever wants it may try again.
    Again = 2,
}

/// Adds a key.
#[inline(always)]
pub fn insert<L: Lines>(lines: &L, key: &Key, value: &L::Value) -> Inserted {
    let home = Home::of(lines, key);
    if find_at(lines, key, &home, None).is_some() {
        return Inserted::Placed;
    }
    let Some((bucket, tags)) = emptier(lines, &home) else { return Inserted::Full };
    let left = matches(tags, FREE);
    let is_at_home = bucket == home.buckets[0] && left & at(home.index, TAKEN) != 0;
    let index = if is_at_home { home.index } else { first_of(left) };
    let Some(place) = place(lines, &home.header, bucket, index) else { return Inserted::Full };
    if !lines.exchange_tags(bucket, tags, tags | at(index, BUSY)) {
        return Inserted::Again;
    }
    lines.write(place, key, value);
    lines.flip_tags(bucket, at(index, BUSY ^ home.tag));
    let own = ((bucket, index), place);
    if matches(lines.tags(bucket), home.tag).count_ones() > MOST_ALIKE {
        // Another with the same tag came at once, and the last one is not looked at.
        free(lines, key, &home, own);
        return Inserted::Again;
    }
    if let Some(other) = find_at(lines, key, &home, Some(own.0)) {
        // A copy goes only where an earlier one is, so one stays.
        let order = |(bucket, index): Position| (bucket != home.buckets[0], index);
        free(lines, key, &home, if order(own.0) < order(other.0) { other } else { own });
    }
    Inserted::Placed
}

/// The bucket that a new key goes to, and its tags; `None`: both are full.
#[inline(always)]
fn emptier(lines: &impl Lines, home: &Home) -> Option<(u32, u64)> {
    if home.header.buckets == 0 {
        return None;
    }
    let [first, second] = home.buckets;
    let of = |bucket| {
        let tags = lines.tags(bucket);
        let is_full_of_alike = matches(tags, home.tag).count_ones() >= MOST_ALIKE;
        (tags, if is_full_of_alike { 0 } else { matches(tags, FREE).count_ones() })
    };
    let (tags, free) = of(first);
    if free < ENOUGH_FREE {
        let (other_tags, other_free) = of(second);
        if other_free > free {
            return Some((second, other_tags));
        }
    }
    (free != 0).then_some((first, tags))
}

/// Removes a key. `false`: it was not there (any more), or others were faster all the time.
#[inline(always)]
pub fn remove<L: Lines>(lines: &L, key: &Key) -> bool {
    let home = Home::of(lines, key);
    find_at(lines, key, &home, None).is_some_and(|found| free(lines, key, &home, found))
}

/// Frees a place that has this key; `false`: it has not (any more).
#[inline(always)]
fn free<L: Lines>(lines: &L, key: &Key, home: &Home, ((bucket, index), place): (Position, L::Place)) -> bool {
    for _ in 0..MOST_TRIES {
        let tags = lines.tags(bucket);
        if tags & at(index, 0xff) != at(index, home.tag) {
            return false;
        }
        if lines.exchange_tags(bucket, tags, tags ^ at(index, home.tag ^ BUSY)) {
            // Another key with the same tag may have got the place meanwhile.
            let is_its = is_same(&lines.key(place), key);
            if is_its {
                lines.clear(place);
            }
            lines.flip_tags(bucket, at(index, BUSY ^ if is_its { FREE } else { home.tag }));
            return is_its;
        }
    }
    false
}
