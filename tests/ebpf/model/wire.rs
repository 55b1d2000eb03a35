// SPDX-License-Identifier: Apache-2.0
//! Reads the fields of a frame (IEEE 802.1Q, RFC 791, 792, 768, 4443, 8200, 9293) from slices, without code of
//! the programs. It decides nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::world::MacBytes;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    Whole,
    First,
    Later,
}

/// An IP header, with its options or extension headers.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    /// Where it begins in the frame.
    pub(crate) at: usize,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) time_to_live: u8,
    pub(crate) fragment: Fragment,
    pub(crate) fragment_id: u32,
    /// Length of the packet in bytes, as its header says.
    pub(crate) length: usize,
    /// Where its payload begins.
    pub(crate) next_at: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Carries {
    /// A TCP or UDP header.
    Transport { ports: (u16, u16), seq: u32, ack: u32, tcp_flags: u8, has_checksum: bool },
    /// A later fragment of a TCP or UDP packet, which has no TCP or UDP header.
    LaterPart,
    /// An ICMP error with the beginning of the packet that it is about. `is_unreachable`: that packet cannot be
    /// delivered at all.
    Error { inside: Ip, ports: (u16, u16), seq: u32, is_unreachable: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) to: MacBytes,
    pub(crate) from: MacBytes,
    pub(crate) ip: Ip,
    pub(crate) carries: Carries,
}

/// `None` if llb finds no TCP or UDP flow in the frame.
pub(crate) fn read(frame: &[u8]) -> Option<Wire> {
    let (to, from) = (frame.get(0..6)?.try_into().ok()?, frame.get(6..12)?.try_into().ok()?);
    let (mut at, mut tags) = (14, 0);
    while matches!(half(frame, at - 2)?, 0x8100 | 0x88a8) && tags < 2 {
        // A VLAN is a link of its own. Number 0 is no VLAN: the tag only says how urgent the frame is.
        if half(frame, at)? % 4096 != 0 {
            return None;
        }
        (at, tags) = (at + 4, tags + 1);
    }
    let ip = match half(frame, at - 2)? {
        0x0800 => v4(frame, at)?,
        0x86dd => v6(frame, at)?,
        _ => return None,
    };
    let carries = match (ip.protocol, ip.source) {
        (TCP | UDP, _) if ip.fragment == Fragment::Later => Carries::LaterPart,
        (TCP | UDP, _) => transport(frame, &ip)?,
        (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)) if ip.fragment == Fragment::Whole => error(frame, &ip)?,
        _ => return None,
    };
    Some(Wire { to, from, ip, carries })
}

fn v4(frame: &[u8], at: usize) -> Option<Ip> {
    let header = frame.get(at..at + 20)?;
    let words = usize::from(header[0] & 15);
    if header[0] >> 4 != 4 || words < 5 {
        return None;
    }
    let flags = half(header, 6)?;
    let fragment = match (flags & 0x1fff, flags & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    let address =
        |from: usize| Ipv4Addr::new(header[from], header[from + 1], header[from + 2], header[from + 3]);
    Some(Ip {
        at,
        source: address(12).into(),
        destination: address(16).into(),
        protocol: header[9],
        time_to_live: header[8],
        fragment,
        fragment_id: u32::from(half(header, 4)?),
        length: usize::from(half(header, 2)?),
        next_at: at + 4 * words,
    })
}

fn v6(frame: &[u8], at: usize) -> Option<Ip> {
    let header = frame.get(at..at + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address = |from: usize| -> Option<Ipv6Addr> {
        let address = Ipv6Addr::from(<[u8; 16]>::try_from(&header[from..from + 16]).ok()?);
        // An IPv4-mapped address represents an IPv4 node inside a host. It must not appear on the wire, and
        // Linux drops packets from such an address.
        address.to_ipv4_mapped().is_none().then_some(address)
    };
    let (mut next, mut next_at) = (header[6], at + 40);
    let (mut fragment, mut fragment_id) = (Fragment::Whole, 0);
    // llb looks through this many extension headers, and this many bytes of them, but no more.
    for _ in 0..4 {
        if ![0, 43, 44, 51, 60].contains(&next) || fragment == Fragment::Later {
            break;
        }
        let extension = frame.get(next_at..next_at + 8)?;
        next_at += match next {
            43 if extension[3] != 0 => return None,
            44 => {
                let field = half(extension, 2)?;
                fragment_id = u32::from(half(extension, 4)?) << 16 | u32::from(half(extension, 6)?);
                if field & 0xfff8 != 0 {
                    fragment = Fragment::Later;
                } else if field & 1 != 0 {
                    fragment = Fragment::First;
                }
                8
            }
            51 => 4 * (usize::from(extension[1]) + 2),
            _ => 8 * (usize::from(extension[1]) + 1),
        };
        next = extension[0];
        if next_at > at + 512 {
            return None;
        }
    }
    Some(Ip {
        at,
        source: address(8)?.into(),
        destination: address(24)?.into(),
        protocol: next,
        time_to_live: header[7],
        fragment,
        fragment_id,
        length: usize::from(half(header, 4)?) + 40,
        next_at,
    })
}

fn transport(frame: &[u8], ip: &Ip) -> Option<Carries> {
    let bytes = if ip.protocol == TCP { 20 } else { 8 };
    let header = frame.get(ip.next_at..ip.next_at + bytes)?;
    Some(Carries::Transport {
        ports: (half(header, 0)?, half(header, 2)?),
        seq: if ip.protocol == TCP { word(header, 4)? } else { 0 },
        ack: if ip.protocol == TCP { word(header, 8)? } else { 0 },
        tcp_flags: if ip.protocol == TCP { header[13] } else { 0 },
        has_checksum: ip.protocol == TCP || half(header, 6)? != 0,
    })
}

fn error(frame: &[u8], ip: &Ip) -> Option<Carries> {
    let at = ip.next_at;
    let is_error = match ip.source {
        IpAddr::V4(_) => matches!(frame.get(at)?, 3 | 11 | 12),
        IpAddr::V6(_) => matches!(frame.get(at)?, 1..=4),
    };
    if !is_error {
        return None;
    }
    let inside = if ip.source.is_ipv4() { v4(frame, at + 8)? } else { v6(frame, at + 8)? };
    let has_ports = matches!(inside.protocol, TCP | UDP) && inside.fragment != Fragment::Later;
    // The error goes to the sender of the packet, with at least eight bytes of its payload.
    let is_inside = inside.next_at + 8 <= (ip.at + ip.length).min(frame.len());
    if !has_ports || inside.source != ip.destination || !is_inside {
        return None;
    }
    let ports = (half(frame, inside.next_at)?, half(frame, inside.next_at + 2)?);
    let is_unreachable = match (ip.source, frame[at], frame.get(at + 1)?) {
        // The packet is too large for a link on its way.
        (IpAddr::V4(_), 3, 4) => false,
        (IpAddr::V4(_), kind, _) => kind == 3,
        (IpAddr::V6(_), kind, _) => kind == 1,
    };
    let seq = if inside.protocol == TCP { word(frame, inside.next_at + 4)? } else { 0 };
    Some(Carries::Error { inside, ports, seq, is_unreachable })
}

/// Four bytes in network order.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(half(bytes, at)?) << 16 | u32::from(half(bytes, at + 2)?))
}

/// Two bytes in network order.
pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
