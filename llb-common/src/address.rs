// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Addresses and ports as the packet plane keeps them: the bytes of the wire,
//! one form for both families, in words that eBPF can copy and compare at
//! once. Nothing here is text.

use core::net::IpAddr;

use bytemuck::{Pod, Zeroable};

/// 16 bytes in network order; IPv4 as IPv4-mapped (RFC 4291, 2.5.5.2). It is
/// kept in two words because eBPF would copy an array of bytes one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Address {
    words: [u64; 2],
}

const _: () = assert!(size_of::<Address>() == 16);

/// The 12 bytes before an IPv4 address; the first 8 are zeros.
const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

impl Address {
    /// From its bytes in network order.
    #[inline(always)]
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            words: [
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ],
        }
    }

    /// From an IPv6 header: its 16 bytes as two words of memory.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// From an IPv4 header: its four bytes as one word of memory.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        // Not by bytes, which eBPF would write one by one.
        let (mapped, word) = (u32::from_ne_bytes(MAPPED) as u64, word as u64);
        Self {
            words: [
                0,
                if cfg!(target_endian = "little") { word << 32 | mapped } else { mapped << 32 | word },
            ],
        }
    }

    /// Its bytes in network order.
    #[inline(always)]
    pub const fn bytes(&self) -> [u8; 16] {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) =
            (self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Its bytes as two words of memory.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        self.words
    }

    /// The four bytes that an IPv4 header holds, as one word of memory.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        let [_, _, _, _, a, b, c, d] = self.words[1].to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// The same, word by word: in eBPF, a plain copy of memory is a call of a
    /// function.
    #[inline(always)]
    pub const fn copied(&self) -> Self {
        Self { words: [self.words[0], self.words[1]] }
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, d, ..] = self.words[1].to_ne_bytes();
        self.words[0] == 0 && u32::from_ne_bytes([a, b, c, d]) == u32::from_ne_bytes(MAPPED)
    }

    /// All zeros: no address.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] | self.words[1] == 0
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::new(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self::new(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Self::from(address.bytes()).to_canonical()
    }
}

/// A TCP or UDP port, two bytes in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct WirePort(u16);

impl WirePort {
    /// From a number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// From its two bytes as a word of memory.
    #[inline(always)]
    pub const fn from_wire(bytes: u16) -> Self {
        Self(bytes)
    }

    /// Its two bytes as a word of memory.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// As a number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An Ethernet address, six bytes as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Mac {
    halves: [u16; 3],
}

impl Mac {
    /// From its bytes.
    #[inline(always)]
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self { halves: [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])] }
    }

    /// Its bytes.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] =
            [self.halves[0].to_ne_bytes(), self.halves[1].to_ne_bytes(), self.halves[2].to_ne_bytes()];
        [a, b, c, d, e, f]
    }

    /// As [`Address::copied`].
    #[inline(always)]
    pub const fn copied(&self) -> Self {
        Self { halves: [self.halves[0], self.halves[1], self.halves[2]] }
    }

    /// All zeros: not known.
    #[inline(always)]
    pub const fn is_unknown(self) -> bool {
        self.halves[0] | self.halves[1] | self.halves[2] == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back() {
        for text in ["192.0.2.7", "2001:db8::7", "::", "0.0.0.0"] {
            let ip: IpAddr = text.parse().unwrap();
            let address = Address::from(ip);
            assert_eq!(IpAddr::from(address), ip);
            assert_eq!(address.is_v4(), ip.is_ipv4(), "{text}");
            assert_eq!(Address::new(address.bytes()), address);
            assert_eq!(Address::from_words(address.words()), address);
            if ip.is_ipv4() {
                assert_eq!(Address::from_v4_word(address.v4_word()), address);
            }
        }
        assert!(Address::default().is_unspecified());
    }

    #[test]
    fn ports_and_macs_are_as_on_the_wire() {
        assert_eq!(bytemuck::bytes_of(&WirePort::new(0x1234)), [0x12, 0x34]);
        assert_eq!(WirePort::from_wire(WirePort::new(80).wire()).number(), 80);
        let mac = Mac::new([2, 1, 2, 3, 4, 5]);
        assert_eq!(bytemuck::bytes_of(&mac), [2, 1, 2, 3, 4, 5]);
        assert_eq!(mac.bytes(), [2, 1, 2, 3, 4, 5]);
        assert!(Mac::default().is_unknown() && !mac.is_unknown());
    }
}
