// SPDX-License-Identifier: Apache-2.0
//! Frames for tests. The checksums are sums over all bytes; no code is shared with the programs.

use std::net::IpAddr;

use llb_common::address::Address;
pub(crate) use llb_tests::checksum::checksum;

/// The fields of a packet.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) macs: ([u8; 6], [u8; 6]),
    pub(crate) from: (Address, u16),
    pub(crate) to: (Address, u16),
    pub(crate) protocol: u8,
    pub(crate) tcp_flags: u8,
    /// Sequence and acknowledgement number of TCP.
    pub(crate) numbers: (u32, u32),
    pub(crate) time_to_live: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let l4 = self.transport();
        let packet = ip(self.from.0, self.to.0, self.protocol, self.time_to_live, &l4);
        ethernet(self.macs, &packet)
    }

    /// The TCP or UDP part of the packet, with its checksum.
    pub(crate) fn transport(&self) -> Vec<u8> {
        let ports = [self.from.1.to_be_bytes(), self.to.1.to_be_bytes()].concat();
        let (mut bytes, at) = if self.protocol == 6 {
            (
                [
                    &ports[..],
                    &self.numbers.0.to_be_bytes(),
                    &self.numbers.1.to_be_bytes(),
                    &[0x50, self.tcp_flags, 0x20, 0, 0, 0, 0, 0],
                    &self.payload,
                ]
                .concat(),
                16,
            )
        } else {
            let length = (8 + self.payload.len() as u16).to_be_bytes();
            ([&ports[..], &length, &[0, 0], &self.payload].concat(), 6)
        };
        let sum = l4_checksum(self.from.0, self.to.0, self.protocol, &bytes);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

pub(crate) fn ethernet((destination, source): ([u8; 6], [u8; 6]), packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&destination[..], &source, &ethertype, packet].concat()
}

/// Writes a time to live into a whole frame.
pub(crate) fn set_time_to_live(frame: &mut [u8], time_to_live: u8) {
    if frame[12] == 8 {
        frame[22] = time_to_live;
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[21] = time_to_live;
    }
}

/// An IP packet of the family that its addresses have.
pub(crate) fn ip(from: Address, to: Address, protocol: u8, time_to_live: u8, rest: &[u8]) -> Vec<u8> {
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (IpAddr::from(from), IpAddr::from(to)) {
        let length = (20 + rest.len() as u16).to_be_bytes();
        let mut header =
            [&[0x45, 0][..], &length, &[0x12, 0x34, 0, 0, time_to_live, protocol, 0, 0]].concat();
        header.extend([from.octets(), to.octets()].concat());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        return [&header, rest].concat();
    }
    let length = (rest.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[protocol, time_to_live], &from.bytes(), &to.bytes(), rest].concat()
}

/// A checksum with the pseudo header of either family (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub(crate) fn l4_checksum(from: Address, to: Address, protocol: u8, bytes: &[u8]) -> u16 {
    let pseudo = match (IpAddr::from(from), IpAddr::from(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        _ => [from.bytes(), to.bytes()].concat(),
    };
    let whole = [&pseudo[..], &(bytes.len() as u32).to_be_bytes(), &[0, 0, 0, protocol], bytes].concat();
    match checksum(&whole) {
        0 if protocol == 17 => 0xffff,
        sum => sum,
    }
}

/// An ICMP error "packet too big" from `router` to `to` about the IP packet `inside`.
pub(crate) fn icmp_error(macs: ([u8; 6], [u8; 6]), router: Address, to: Address, inside: &[u8]) -> Vec<u8> {
    icmp(macs, router, to, if to.is_v4() { [3, 4] } else { [2, 0] }, inside)
}

/// An ICMP error "port unreachable" from `router` to `to` about the IP packet `inside`.
pub(crate) fn unreachable(macs: ([u8; 6], [u8; 6]), router: Address, to: Address, inside: &[u8]) -> Vec<u8> {
    icmp(macs, router, to, if to.is_v4() { [3, 3] } else { [1, 4] }, inside)
}

fn icmp(
    macs: ([u8; 6], [u8; 6]),
    router: Address,
    to: Address,
    [kind, code]: [u8; 2],
    inside: &[u8],
) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0, 0, 0, 5, 0][..], inside].concat();
    let protocol = if to.is_v4() { 1 } else { 58 };
    let sum = if to.is_v4() { checksum(&bytes) } else { l4_checksum(router, to, 58, &bytes) };
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    ethernet(macs, &ip(router, to, protocol, 64, &bytes))
}
