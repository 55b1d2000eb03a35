// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the lines of a table hold. The picture is in `mod.rs`.

use bytemuck::{Pod, Zeroable};

/// Words of a line: 64 bytes, as a line of the CPU's cache.
pub const LINE_WORDS: usize = 8;
/// Words of a key.
pub const KEY_WORDS: usize = 3;
/// Bytes of a line that are left for a value.
pub const VALUE_BYTES: usize = size_of::<Line>() - size_of::<Key>();
/// Places of a bucket: as many as a word has bytes, since each has a tag of one byte.
pub const BUCKET_PLACES: u32 = 8;

/// A key as the table sees it: 24 bytes. The last word must not be zero.
pub type Key = [u64; KEY_WORDS];

/// A line, which is a value of the array map that holds the table: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u64; LINE_WORDS]);

/// Line 0 of a table: 32 bytes, native byte order. The rest of the line is zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Number of buckets. 0: there is no table yet, so nothing is found and nothing fits.
    pub buckets: u32,
    /// Number of the line of the first place.
    pub first_place: u32,
    /// Random numbers, one for each word of a key, so that a client that chooses its ports can't fill a
    /// bucket.
    pub seeds: Key,
}

impl Header {
    /// The header of a table with `lines` lines.
    pub const fn new(lines: u32, seeds: Key) -> Self {
        // Eight buckets have one line of tags and 64 places.
        let behind = lines.saturating_sub(1);
        let (groups, rest) = (behind / (8 * BUCKET_PLACES + 1), behind % (8 * BUCKET_PLACES + 1));
        let buckets = 8 * groups + rest.saturating_sub(1) / BUCKET_PLACES;
        Self { buckets, first_place: 1 + buckets.div_ceil(8), seeds }
    }
}

/// Lines of a table for `flows` flows. It has 1.75 places for each of them; then one flow in 6,000 finds both
/// of its buckets full.
pub const fn lines(flows: u32) -> u32 {
    let places = flows as u64 + (flows as u64 * 3).div_ceil(4);
    let buckets = places.div_ceil(BUCKET_PLACES as u64);
    let lines = 1 + buckets.div_ceil(8) + buckets * BUCKET_PLACES as u64;
    if lines > u32::MAX as u64 { u32::MAX } else { lines as u32 }
}
