// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Reads ICMP errors: which flow they are about.

use super::frame::Frame;
use super::ip::{self, Fragment};
use super::packet::{Packet, Shape, Unparsed};
use crate::address::WirePort;
use crate::frontend::{TCP, UDP};

/// Protocol number of ICMP (IANA).
pub(super) const ICMP: u8 = 1;
/// Protocol number of ICMPv6 (IANA).
pub(super) const ICMPV6: u8 = 58;
/// Bytes of the ICMP header before the packet that an error is about, in both families.
const ICMP_BYTES: usize = 8;

/// Reads an ICMP error: destination unreachable, time exceeded, parameter problem (RFC 792, RFC 4443) and,
/// with IPv6, packet too big.
#[inline(always)]
pub(super) fn read_error(
    frame: &(impl Frame + ?Sized),
    is_v6: bool,
    l4: usize,
    packet: &mut Packet,
) -> Result<Shape, Unparsed> {
    /// Code of destination unreachable. IPv6 has a type of its own for it, packet too big.
    const FRAGMENTATION_NEEDED: u8 = 4;
    let [kind, code] = frame.half(l4).ok_or(Unparsed::Truncated)?.to_ne_bytes();
    let is_error = if is_v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) };
    if !is_error {
        return Err(Unparsed::Other);
    }
    let mut inner = ip::Header::default();
    ip::read::<false>(frame, l4 + ICMP_BYTES, is_v6, &mut inner)?;
    if !matches!(inner.protocol, TCP | UDP) || inner.fragment == Fragment::Later {
        return Err(Unparsed::Other);
    }
    // An error goes to the sender of the packet inside it, so these two must be the same.
    if inner.source != packet.destination {
        return Err(Unparsed::Other);
    }
    // An error need not quote more than eight bytes of this header (RFC 792).
    let [first] = frame.words::<1>(inner.l4).ok_or(Unparsed::Truncated)?;
    let [s0, s1, d0, d1, q0, q1, q2, q3] = first.to_ne_bytes();
    packet.source = inner.destination;
    packet.source_port = WirePort::from_wire(u16::from_ne_bytes([d0, d1]));
    packet.destination_port = WirePort::from_wire(u16::from_ne_bytes([s0, s1]));
    packet.seq = if inner.protocol == TCP { u32::from_ne_bytes([q0, q1, q2, q3]) } else { 0 };
    packet.protocol = inner.protocol;
    let is_unreachable = if is_v6 { kind == 1 } else { kind == 3 && code != FRAGMENTATION_NEEDED };
    packet.is_unreachable = u8::from(is_unreachable);
    packet.inner_l3 = (l4 + ICMP_BYTES) as u16;
    packet.inner_l4 = inner.l4 as u16;
    Ok(Shape::Error)
}
