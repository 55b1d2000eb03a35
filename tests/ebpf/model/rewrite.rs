// SPDX-License-Identifier: Apache-2.0
//! The bytes of a rewritten frame. Each checksum is summed over everything that it covers, before and after.
//! One that was right is right again; one that was wrong stays wrong by the same difference, so the receiver
//! still notices.

use std::net::IpAddr;

use super::wire::{Carries, Fragment, TCP, UDP, Wire, half};
use super::world::MacBytes;

/// The time to live that Nodes see in mode DSR. Packets that arrive with less were there before.
pub(crate) const DSR_TIME_TO_LIVE: u8 = 16;

/// Where a packet goes, with which addresses.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) to_mac: MacBytes,
    pub(crate) from_mac: MacBytes,
    /// New addresses and ports; `None` if they stay, as in mode DSR.
    pub(crate) nat: Option<Nat>,
}

#[derive(Clone, Debug)]
pub(crate) struct Nat {
    pub(crate) from: (IpAddr, u16),
    pub(crate) to: (IpAddr, u16),
}

pub(crate) fn rewrite(frame: &[u8], wire: &Wire, target: &Target) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[0..6].copy_from_slice(&target.to_mac);
    out[6..12].copy_from_slice(&target.from_mac);
    let ip = &wire.ip;
    let time_to_live = ip.at + if ip.source.is_ipv4() { 8 } else { 7 };
    let Some(nat) = &target.nat else {
        out[time_to_live] = DSR_TIME_TO_LIVE;
        header_checksum(frame, &mut out, ip.at);
        return out;
    };
    out[time_to_live] -= 1;
    set_addresses(&mut out, ip.at, nat.from.0, nat.to.0);
    header_checksum(frame, &mut out, ip.at);
    let end = (ip.at + ip.length).min(frame.len());
    match &wire.carries {
        Carries::LaterPart => {}
        Carries::Transport { .. } => {
            set_ports(&mut out, ip.next_at, nat.from.1, nat.to.1);
            transport_checksum(frame, &mut out, ip.at, ip.next_at, ip.protocol, frame.len());
        }
        Carries::Error { inside, .. } => {
            // The packet inside the error went in the other direction.
            set_addresses(&mut out, inside.at, nat.to.0, nat.from.0);
            header_checksum(frame, &mut out, inside.at);
            set_ports(&mut out, inside.next_at, nat.to.1, nat.from.1);
            transport_checksum(frame, &mut out, inside.at, inside.next_at, inside.protocol, end);
            let covers = |bytes: &[u8]| match ip.source {
                IpAddr::V4(_) => bytes[ip.next_at..end].to_vec(),
                IpAddr::V6(_) => pseudo(bytes, ip.at, 58, &bytes[ip.next_at..end]),
            };
            let before = covers(frame);
            put_checksum(&before, &mut out, ip.next_at + 2, covers);
        }
    }
    out
}

fn is_v4(frame: &[u8], ip: usize) -> bool {
    frame[ip] >> 4 == 4
}

fn set_addresses(frame: &mut [u8], ip: usize, from: IpAddr, to: IpAddr) {
    for (address, v4, v6) in [(from, 12, 8), (to, 16, 24)] {
        match address {
            IpAddr::V4(address) => frame[ip + v4..][..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => frame[ip + v6..][..16].copy_from_slice(&address.octets()),
        }
    }
}

fn set_ports(frame: &mut [u8], at: usize, from: u16, to: u16) {
    frame[at..at + 2].copy_from_slice(&from.to_be_bytes());
    frame[at + 2..at + 4].copy_from_slice(&to.to_be_bytes());
}

/// The checksum of an IPv4 header with its options.
fn header_checksum(before: &[u8], out: &mut [u8], ip: usize) {
    if is_v4(before, ip) {
        let end = (ip + 4 * usize::from(before[ip] & 15)).min(before.len());
        put_checksum(&before[ip..end], out, ip + 10, |out| out[ip..end].to_vec());
    }
}

/// The checksum of TCP or UDP, as far as the packet contains it.
fn transport_checksum(before: &[u8], out: &mut [u8], ip: usize, at: usize, protocol: u8, end: usize) {
    let field = at + if protocol == TCP { 16 } else { 6 };
    let has_none = protocol == UDP && half(before, field) == Some(0);
    if field + 2 > end || has_none {
        return;
    }
    let covers = |bytes: &[u8]| pseudo(bytes, ip, protocol, &bytes[at..end]);
    put_checksum(&covers(before), out, field, covers);
    if protocol == UDP && half(out, field) == Some(0) {
        out[field..field + 2].fill(0xff);
    }
}

/// Everything covered by a checksum that includes the addresses (RFC 8200, section 8.1; RFC 9293, section 3.1).
fn pseudo(frame: &[u8], ip: usize, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let addresses = if is_v4(frame, ip) { &frame[ip + 12..ip + 20] } else { &frame[ip + 8..ip + 40] };
    let length = (payload.len() as u32).to_be_bytes();
    [addresses, &length, &[0, 0, 0, protocol], payload].concat()
}

/// Sets the checksum at `field` so that the sum over everything it covers is the same as in `before`.
fn put_checksum(before: &[u8], out: &mut [u8], field: usize, covers: impl Fn(&[u8]) -> Vec<u8>) {
    out[field..field + 2].fill(0);
    let wanted = sum(before) + 0xffff - sum(&covers(out));
    // In ones' complement 0xffff is a second form of 0. Only a sum of nothing but zeros has it.
    out[field..field + 2].copy_from_slice(&((wanted % 0xffff) as u16).to_be_bytes());
}

/// The sum of all 16-bit words, modulo 0xffff (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    bytes.chunks(2).map(word).sum::<u64>() % 0xffff
}

/// Whether all checksums of a packet are right, as far as the packet is whole.
pub(crate) fn is_right(frame: &[u8], wire: &Wire) -> bool {
    let ip = &wire.ip;
    let end = ip.at + ip.length;
    if is_v4(frame, ip.at) && sum(&frame[ip.at..ip.next_at]) != 0 {
        return false;
    }
    let payload = &frame[ip.next_at..end];
    match &wire.carries {
        Carries::Transport { has_checksum: true, .. } if ip.fragment == Fragment::Whole => {
            sum(&pseudo(frame, ip.at, ip.protocol, payload)) == 0
        }
        Carries::Error { .. } if is_v4(frame, ip.at) => sum(payload) == 0,
        Carries::Error { .. } => sum(&pseudo(frame, ip.at, ip.protocol, payload)) == 0,
        _ => true,
    }
}
