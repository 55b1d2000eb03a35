// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Looks keys up.

use super::layout::{BUCKET_PLACES, Header, Key};
use super::memory::Lines;
use super::tags::{TAKEN, at, first_of, matches};

/// How many places of a bucket may have the same tag. A look-up compares no more keys than that. A flow that
/// would be one more goes to its other bucket.
pub(super) const MAX_ALIKE: u32 = 2;

/// Where a key may be.
#[derive(Clone, Copy)]
pub(super) struct Home {
    pub(super) header: Header,
    pub(super) buckets: [u32; 2],
    /// The tag of the key, in the lowest byte.
    pub(super) tag: u64,
    /// The key's own place in its first bucket. It is there if the place was free.
    pub(super) index: u32,
}

impl Home {
    #[inline(always)]
    pub(super) fn of(lines: &impl Lines, key: &Key) -> Self {
        let header = lines.header();
        let hash = hash(key, &header.seeds);
        let other = mix(hash);
        let bucket = |hash: u64| (hash >> 32).wrapping_mul(u64::from(header.buckets)) >> 32;
        let buckets = [bucket(hash) as u32, bucket(other) as u32];
        // Made of the bits that have the least influence on the bucket.
        let (tag, index) = (other & (TAKEN - 1) | TAKEN, (other >> 7) as u32 % BUCKET_PLACES);
        Self { header, buckets, tag, index }
    }
}

/// The hash of a key. Its higher half is used for the bucket: without the seeds, nobody can tell which keys
/// have the same one (multilinear hashing; Lemire and Kaser, *Strongly universal string hashing is fast*,
/// 2014). The CPU can do the three multiplications at once.
#[inline(always)]
const fn hash([a, b, c]: &Key, [x, y, z]: &Key) -> u64 {
    // An even factor would lose the highest bit of the key.
    let [a, b, c] = [a.wrapping_mul(*x | 1), b.wrapping_mul(*y | 1), c.wrapping_mul(*z | 1)];
    a.wrapping_add(b).wrapping_add(c)
}

/// Mixes both halves of a hash, so that second bucket, tag and own place do not follow from the first bucket.
#[inline(always)]
const fn mix(hash: u64) -> u64 {
    let mixed = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// Finds a key if it is in its own place. Most are, and this reads no tags, which would be one more wait for
/// memory.
#[inline(always)]
pub fn find_at_home<L: Lines>(lines: &L, key: &Key) -> Option<L::Place> {
    let home = Home::of(lines, key);
    let place = place(lines, &home.header, home.buckets[0], home.index)?;
    is_same(&lines.key(place), key).then_some(place)
}

/// Finds a key, wherever it is.
#[inline(always)]
pub fn find<L: Lines>(lines: &L, key: &Key) -> Option<L::Place> {
    find_at(lines, key, &Home::of(lines, key), None).map(|(_, place)| place)
}

/// Where a place is: its bucket, and its number in that bucket.
pub(super) type Position = (u32, u32);

/// Finds the first place that has a key, except the place at position `without`.
#[inline(always)]
pub(super) fn find_at<L: Lines>(
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
    for _ in 0..MAX_ALIKE {
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

/// Compares word by word: for `==`, the compiler would call a function that compares bytes.
#[inline(always)]
pub(super) const fn is_same([a, b, c]: &Key, [x, y, z]: &Key) -> bool {
    (*a ^ *x) | (*b ^ *y) | (*c ^ *z) == 0
}

/// The place with number `index` in a bucket.
#[inline(always)]
pub(super) fn place<L: Lines>(lines: &L, header: &Header, bucket: u32, index: u32) -> Option<L::Place> {
    lines.place(header.first_place.wrapping_add(bucket.wrapping_mul(BUCKET_PLACES)).wrapping_add(index))
}
