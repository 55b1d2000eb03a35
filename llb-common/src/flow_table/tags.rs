// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The tags of a bucket: eight bytes of one word, one for each place. All are compared at once.

/// The tag of a free place.
pub(super) const FREE: u64 = 0;
/// The tag of a place that is being written.
pub(super) const BUSY: u64 = 1;
/// The bit that all other tags have: those of places that hold a flow.
pub(super) const TAKEN: u64 = 0x80;
/// 1 in every byte.
pub(super) const EACH: u64 = 0x0101_0101_0101_0101;

/// The highest bit of each byte of `tags` that equals `tag`, and no other bits.
#[inline(always)]
pub(super) const fn matches(tags: u64, tag: u64) -> u64 {
    let different = tags ^ tag.wrapping_mul(EACH);
    let rest = !(TAKEN * EACH);
    !(((different & rest).wrapping_add(rest)) | different | rest)
}

/// Number of the byte that has the lowest bit of [`matches`].
#[inline(always)]
pub(super) const fn first_of(matches: u64) -> u32 {
    let lowest = matches.isolate_lowest_one() >> 7;
    // The multiplication moves the constant up by that many bytes. Its highest byte is then the number.
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

/// `byte` as the tag of place `index`, in a word of tags.
#[inline(always)]
pub(super) const fn at(index: u32, byte: u64) -> u64 {
    byte << (8 * (index & 7))
}
