// SPDX-License-Identifier: Apache-2.0
//! Frames as bytes, with everything that networks put around TCP and UDP: VLAN tags, options, extension
//! headers, fragments, trailers.

use std::net::IpAddr;

use llb_common::address::Address;
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::frames::{Frame, checksum, l4_checksum};

/// An address and a port.
pub(super) type End = (IpAddr, u16);

/// One fragment of a packet.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) id: u32,
    pub(super) offset: usize,
    pub(super) is_last: bool,
}

/// TCP with these flags and numbers, or UDP, which sometimes has no checksum.
pub(super) fn transport(
    random: &mut StdRng,
    from: End,
    to: End,
    protocol: u8,
    tcp: (u8, u32, u32),
    payload: usize,
) -> Vec<u8> {
    let frame = Frame {
        macs: ([0; 6], [0; 6]),
        from: (Address::from(from.0), from.1),
        to: (Address::from(to.0), to.1),
        protocol,
        tcp_flags: tcp.0,
        numbers: (tcp.1, tcp.2),
        time_to_live: 0,
        payload: (0..payload).map(|_| random.random()).collect(),
    };
    let mut bytes = frame.transport();
    if protocol == 17 && random.random_ratio(1, 8) {
        bytes[6..8].fill(0);
    }
    bytes
}

/// An IP packet; some have options or extension headers.
pub(super) fn packet(
    random: &mut StdRng,
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    part: Option<Part>,
    rest: &[u8],
) -> Vec<u8> {
    let time_to_live =
        if random.random_ratio(1, 12) { random.random_range(0..3) } else { random.random_range(3..=255) };
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let words = if random.random_ratio(1, 8) { random.random_range(0..=10) } else { 0 };
            let mut header = vec![0x45 + words as u8, random.random()];
            header.extend(((20 + 4 * words + rest.len()) as u16).to_be_bytes());
            let (id, flags) = match part {
                Some(part) => (part.id as u16, u16::from(!part.is_last) << 13 | (part.offset / 8) as u16),
                None => (random.random(), 0x4000),
            };
            header.extend([id.to_be_bytes(), flags.to_be_bytes(), [time_to_live, protocol], [0, 0]].concat());
            header.extend([from.octets(), to.octets()].concat());
            header.extend(vec![1; 4 * words]);
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            [&header, rest].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (first, rest) = extended(random, protocol, part, rest);
            let mut header = vec![0x60, random.random_range(0..16), 0, 7];
            header.extend((rest.len() as u16).to_be_bytes());
            header.extend([first, time_to_live]);
            header.extend([from.octets(), to.octets()].concat());
            [header, rest].concat()
        }
        _ => unreachable!("one packet, one family"),
    }
}

/// Puts extension headers before `rest`, and returns the number of the first one.
fn extended(random: &mut StdRng, protocol: u8, part: Option<Part>, rest: &[u8]) -> (u8, Vec<u8>) {
    let mut chain = Chain { first: protocol, bytes: rest.to_vec() };
    let count = if random.random_ratio(1, 8) { random.random_range(1..5) } else { 0 };
    let Some(part) = part else {
        (0..count).for_each(|_| chain.put_any(random));
        return (chain.first, chain.bytes);
    };
    let [high, low] = (part.offset as u16 | u16::from(!part.is_last)).to_be_bytes();
    chain.put(44, [0, high, low], &part.id.to_be_bytes());
    // After the fragment header only the first fragment would contain them.
    for _ in 0..count {
        chain.put(if random.random() { 0 } else { 60 }, [0, 1, 4], &[0; 4]);
    }
    (chain.first, chain.bytes)
}

/// A chain of extension headers. The one that is put last comes first.
struct Chain {
    first: u8,
    bytes: Vec<u8>,
}

impl Chain {
    /// Puts a header: the number of the next one, three bytes, and the rest.
    fn put(&mut self, kind: u8, begin: [u8; 3], rest: &[u8]) {
        self.bytes = [&[self.first][..], &begin, rest, &self.bytes].concat();
        self.first = kind;
    }

    fn put_any(&mut self, random: &mut StdRng) {
        match random.random_range(0..5) {
            0 => self.put(0, [0, 1, 4], &[0; 4]),
            1 => self.put(60, [1, 1, 12], &[0; 12]),
            // In a few of them, the way is not finished yet (segments left).
            2 => self.put(43, [2, 0, u8::from(random.random_ratio(1, 16))], &[0; 20]),
            3 => self.put(51, [4, 0, 0], &[7; 20]),
            // An atomic fragment (RFC 6946).
            _ => self.put(44, [0, 0, 0], &[9; 4]),
        }
    }
}

/// An ICMP error about the packet `inside` or a part of it; sometimes another ICMP message.
pub(super) fn icmp(random: &mut StdRng, router: IpAddr, to: IpAddr, inside: &[u8]) -> Vec<u8> {
    let kind = match (to, random.random_range(0..12)) {
        (IpAddr::V4(_), 0) => [0, 4, 5, 8, 13][random.random_range(0..5)],
        (IpAddr::V4(_), n) => [3, 3, 11, 12][n % 4],
        (IpAddr::V6(_), 0) => [0, 5, 128, 129, 135][random.random_range(0..5)],
        (IpAddr::V6(_), n) => [1, 2, 3, 4][n % 4],
    };
    let mut bytes = [&[kind, random.random_range(0..8), 0, 0, 0, 0, 5, 0][..], inside].concat();
    let protocol = if to.is_ipv4() { 1 } else { 58 };
    let sum = match protocol {
        1 => checksum(&bytes),
        _ => l4_checksum(Address::from(router), Address::from(to), 58, &bytes),
    };
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(random, router, to, protocol, None, &bytes)
}

/// A frame; some have VLAN tags, some have bytes after the packet.
pub(super) fn ethernet(random: &mut StdRng, (to, from): ([u8; 6], [u8; 6]), packet: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    let tags = if random.random_ratio(1, 8) { random.random_range(1..4) } else { 0 };
    for _ in 0..tags {
        frame.extend(if random.random() { [0x81, 0] } else { [0x88, 0xa8] });
        let vlan = if random.random_ratio(1, 8) { random.random_range(1..4096) } else { 0 };
        frame.extend((random.random_range(0..16_u16) << 12 | vlan).to_be_bytes());
    }
    frame.extend(if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] });
    frame.extend(packet);
    if random.random_ratio(1, 12) {
        frame.extend((0..random.random_range(1..24)).map(|_| random.random::<u8>()));
    }
    frame
}

/// Changes a few bytes, or cuts off the end.
pub(super) fn mutate(random: &mut StdRng, frame: &mut Vec<u8>) {
    if random.random_ratio(1, 3) {
        frame.truncate(random.random_range(15..=frame.len()));
    }
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..frame.len().min(120));
        frame[at] = match random.random_range(0..4) {
            0 => 0,
            1 => frame[at] ^ 1 << random.random_range(0..8),
            _ => random.random(),
        };
    }
}
