// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! How the memory of a table is accessed. The programs and the agent have an implementation each.

use super::layout::{Header, Key};

/// The memory of a table, as the programs or the agent access it. A line that does not exist must not panic:
/// it reads as zeros, and what is written to it is lost.
pub trait Lines {
    /// A place that exists.
    type Place: Copy;
    /// The value behind a key: at most [`VALUE_BYTES`](super::VALUE_BYTES) bytes.
    type Value;

    /// Reads line 0.
    fn header(&self) -> Header;
    /// Reads the tags of a bucket. The tag of its first place is in the lowest byte.
    fn tags(&self, bucket: u32) -> u64;
    /// Replaces the tags of a bucket, if they are still `old`. `false`: they are not. The exchange is ordered
    /// with all reads and writes before and after it.
    fn exchange_tags(&self, bucket: u32, old: u64, new: u64) -> bool;
    /// Inverts the bits of a bucket's tags that are set in `bits`. Ordered as [`Lines::exchange_tags`] is.
    fn flip_tags(&self, bucket: u32, bits: u64);
    /// The place in line `line`; `None` if there is no such line.
    fn place(&self, line: u32) -> Option<Self::Place>;
    /// Reads the key of a place.
    fn key(&self, place: Self::Place) -> Key;
    /// Writes key and value. The last word of the key is written last: other CPUs that see it see the rest,
    /// too.
    fn write(&self, place: Self::Place, key: &Key, value: &Self::Value);
    /// Clears a place: sets the last word of its key to zero.
    fn clear(&self, place: Self::Place);
}
