// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Updates the Internet checksum after a change, without reading the rest of the packet (RFC 1624, equation
//! 3: `HC' = ~(~HC + ~m + m')`).
//!
//! Sums are in ones' complement, where the byte order does not matter (RFC 1071, 2.B), so all words are used
//! as they are in memory. A word that does not change adds nothing, so IPv4 addresses may be summed in their
//! mapped form.

use crate::address::Address;

/// What a change adds to a checksum's sum, not yet folded. It has room for 2^30 changed words of 32 bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change(u64);

impl Change {
    /// No change.
    pub const NONE: Self = Self(0);

    /// Adds the change of a word of four bytes.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0.wrapping_add(!old as u64).wrapping_add(new as u64))
    }

    /// Adds the change of a word of two bytes, at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0.wrapping_add(!old as u64).wrapping_add(new as u64))
    }

    /// Adds the change of an address.
    #[inline(always)]
    #[must_use]
    pub fn address(self, old: &Address, new: &Address) -> Self {
        // Read in words of four bytes: in eBPF, to split a longer one takes more instructions.
        let ([a, b, c, d], [e, f, g, h]): (&[u32; 4], &[u32; 4]) =
            (bytemuck::cast_ref(old), bytemuck::cast_ref(new));
        self.word(*a, *e).word(*b, *f).word(*c, *g).word(*d, *h)
    }

    /// Adds another change.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The change folded into 16 bits. The kernel's helpers call this a checksum difference.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff).wrapping_add(self.0 >> 32);
        let sum = (sum & 0xffff).wrapping_add(sum >> 16);
        let sum = (sum & 0xffff).wrapping_add(sum >> 16);
        let sum = (sum & 0xffff).wrapping_add(sum >> 16);
        sum as u16
    }

    /// What the checksum `old` becomes by this change.
    #[inline(always)]
    pub const fn apply(self, old: u16) -> u16 {
        !Self(self.0.wrapping_add(!old as u64)).folded()
    }

    /// The same for UDP, where 0 means that there is no checksum (RFC 768). No checksum stays no checksum,
    /// and a result of 0 is written as 0xffff, which is the same number in ones' complement.
    #[inline(always)]
    pub const fn apply_udp(self, old: u16) -> u16 {
        match (old, self.apply(old)) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, new) => new,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;

    /// The checksum from scratch: the complement of the sum of all words.
    fn whole(words: &[u16]) -> u16 {
        let sum = words.iter().fold(0_u32, |sum, word| sum + u32::from(*word));
        let sum = (sum & 0xffff) + (sum >> 16);
        !(((sum & 0xffff) + (sum >> 16)) as u16)
    }

    #[test]
    fn an_update_equals_the_checksum_from_scratch() {
        for seed in 0..10_000 {
            let mut words = [0_u16; 10];
            for (place, word) in words.iter_mut().enumerate() {
                *word = mix(seed * 16 + place as u64) as u16;
            }
            let (before, old) = (whole(&words), words[3]);
            words[3] = mix(!seed) as u16;
            assert_eq!(Change::NONE.half(old, words[3]).apply(before), whole(&words), "{seed}");
        }
    }

    #[test]
    fn addresses_of_both_families_are_summed_alike() {
        let (old, new) = (Address::from_v4_word(0x0102_0304), Address::from_v4_word(0x7766_5544));
        let mapped = Change::NONE.address(&old, &new).apply(0x1234);
        assert_eq!(mapped, Change::NONE.word(0x0102_0304, 0x7766_5544).apply(0x1234));
    }

    #[test]
    fn udp_without_checksum_stays_so_and_zero_is_never_a_result() {
        assert_eq!(Change::NONE.half(1, 2).apply_udp(0), 0);
        let to_zero = Change::NONE.half(0, 0x1234);
        assert_eq!(to_zero.apply(0x1234), 0);
        assert_eq!(to_zero.apply_udp(0x1234), 0xffff);
    }
}
