// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Addresses and ports as the packet plane keeps them: as they are in packets, in one form for both families,
//! in words that eBPF can copy and compare at once. Nothing here is text.

use core::net::IpAddr;

use bytemuck::{Pod, Zeroable};

/// An IP address: 16 bytes in network order, an IPv4 address as IPv4-mapped (RFC 4291, 2.5.5.2). It is kept
/// in two words because the compiler would copy an array of bytes one by one in eBPF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Address {
    words: [u64; 2],
}

const _: () = assert!(size_of::<Address>() == 16);

/// Bytes 8 to 11 of an IPv4-mapped address; the bytes before are zeros.
const MAPPED: [u8; 4] = [0, 0, 0xff, 0xff];

impl Address {
    /// The address with these bytes, in network order.
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

    /// The address in an IPv6 header, which was read as two words.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { words }
    }

    /// The address in an IPv4 header, which was read as one word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        // Not byte by byte: the compiler would write them one by one in eBPF.
        let (mapped, word) = (u32::from_ne_bytes(MAPPED) as u64, word as u64);
        Self {
            words: [
                0,
                if cfg!(target_endian = "little") { word << 32 | mapped } else { mapped << 32 | word },
            ],
        }
    }

    /// The bytes of the address, in network order.
    #[inline(always)]
    pub const fn bytes(&self) -> [u8; 16] {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) =
            (self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The bytes of the address, as two words in the order of memory.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        self.words
    }

    /// The last four bytes, which an IPv4 header holds, as one word in the order of memory.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        let [_, _, _, _, a, b, c, d] = self.words[1].to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// A copy that is made word by word: in eBPF, the compiler may call a function to copy memory.
    #[inline(always)]
    pub const fn copied(&self) -> Self {
        Self { words: [self.words[0], self.words[1]] }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, d, ..] = self.words[1].to_ne_bytes();
        self.words[0] == 0 && u32::from_ne_bytes([a, b, c, d]) == u32::from_ne_bytes(MAPPED)
    }

    /// Whether a packet of another host may come from this address. It may not from one that stands for no host,
    /// for the host itself, or for many (RFC 1122, 3.2.1.3; RFC 4291, 2.5.2, 2.5.3 and 2.7).
    #[inline(always)]
    pub const fn may_be_a_source(&self) -> bool {
        if self.is_v4() {
            let word = self.v4_word();
            let [first, ..] = word.to_ne_bytes();
            return !matches!(first, 0 | 127 | 224..=239) && word != u32::MAX;
        }
        let [first, ..] = self.words[0].to_ne_bytes();
        let is_low = self.words[0] == 0 && u64::from_be(self.words[1]) <= 1;
        first != 0xff && !is_low
    }

    /// Whether all bytes are zeros, which stands for no address.
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

/// A TCP or UDP port as in a packet: two bytes in network order. 0 stands for no port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct WirePort(u16);

impl WirePort {
    /// The port with this number.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The port in a TCP or UDP header, whose two bytes were read as one word.
    #[inline(always)]
    pub const fn from_wire(bytes: u16) -> Self {
        Self(bytes)
    }

    /// The two bytes of the port, as one word in the order of memory.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// The number of the port.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An Ethernet address: six bytes, in the order of the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Mac {
    halves: [u16; 3],
}

impl Mac {
    /// The address with these bytes.
    #[inline(always)]
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self { halves: [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])] }
    }

    /// The bytes of the address.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] =
            [self.halves[0].to_ne_bytes(), self.halves[1].to_ne_bytes(), self.halves[2].to_ne_bytes()];
        [a, b, c, d, e, f]
    }

    /// The bytes of the address, as three words in the order of memory.
    #[inline(always)]
    pub const fn halves(self) -> [u16; 3] {
        self.halves
    }

    /// A copy, see [`Address::copied`].
    #[inline(always)]
    pub const fn copied(&self) -> Self {
        Self { halves: [self.halves[0], self.halves[1], self.halves[2]] }
    }

    /// Whether all bytes are zeros, which stands for an address that is not known.
    #[inline(always)]
    pub const fn is_unknown(self) -> bool {
        self.halves[0] | self.halves[1] | self.halves[2] == 0
    }
}

/// Four bytes of which `first` and `second` have two each, as one word in the order of memory. It is put together
/// from words, because in eBPF single bytes would take twice as many instructions.
#[inline(always)]
pub const fn joined(first: u16, second: u16) -> u32 {
    let (first, second) = (first as u32, second as u32);
    if cfg!(target_endian = "little") { first | second << 16 } else { first << 16 | second }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_one_other_host() {
        let may_be = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).may_be_a_source();
        for text in
            ["1.0.0.1", "10.0.0.1", "126.9.9.9", "128.0.0.1", "223.1.1.1", "240.0.0.1", "::2", "fe80::1"]
        {
            assert!(may_be(text), "{text}");
        }
        for text in ["0.0.0.0", "0.9.9.9", "127.0.0.1", "224.0.0.1", "239.9.9.9", "255.255.255.255"] {
            assert!(!may_be(text), "{text}");
        }
        assert!(!["::", "::1", "ff02::1", "ff0e::5"].into_iter().any(may_be));
    }

    #[test]
    fn addresses_of_both_families_survive_a_round_trip() {
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
    fn ports_and_macs_are_in_network_order() {
        assert_eq!(bytemuck::bytes_of(&WirePort::new(0x1234)), [0x12, 0x34]);
        assert_eq!(WirePort::from_wire(WirePort::new(80).wire()).number(), 80);
        let mac = Mac::new([2, 1, 2, 3, 4, 5]);
        assert_eq!(bytemuck::bytes_of(&mac), [2, 1, 2, 3, 4, 5]);
        assert_eq!(mac.bytes(), [2, 1, 2, 3, 4, 5]);
        assert!(Mac::default().is_unknown() && !mac.is_unknown());
        let [a, b, c] = mac.halves();
        assert_eq!(joined(a, b).to_ne_bytes(), [2, 1, 2, 3]);
        assert_eq!(joined(b, c).to_ne_bytes(), [2, 3, 4, 5]);
    }
}
