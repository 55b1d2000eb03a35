// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Reads a frame from its Ethernet header to its TCP or UDP header.

use super::frame::Frame;
use super::icmp::{ICMP, ICMPV6};
use super::ip::Fragment;
use super::packet::{Packet, Shape, Unparsed};
use super::{icmp, ip};
use crate::address::{Mac, WirePort};
use crate::frontend::{TCP, UDP};

/// EtherType of IPv4.
pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherTypes of customer and service VLAN tags (IEEE 802.1Q).
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const ETHERNET_BYTES: usize = 14;
const VLAN_TAG_BYTES: usize = 4;
const MAX_VLAN_TAGS: usize = 2;
/// The bits of a VLAN tag that say in which VLAN the frame is. Zeros: in none; the tag has only a priority.
const VLAN_ID: u16 = 0xfff;

/// Fills `packet`, if the frame belongs to a flow.
///
/// # Errors
/// If it does not, or too little of it can be read. `packet` may then be half filled.
#[inline(always)]
pub fn parse(frame: &(impl Frame + ?Sized), packet: &mut Packet) -> Result<Shape, Unparsed> {
    read::<false>(frame, packet)
}

/// Does the same with much less work for nearly all packets: TCP and UDP without VLAN tags, IP options,
/// extension headers and fragments.
///
/// # Errors
/// [`Unparsed::NotPlain`] for other packets, else as [`parse`].
#[inline(always)]
pub fn parse_plain(frame: &(impl Frame + ?Sized), packet: &mut Packet) -> Result<Shape, Unparsed> {
    read::<true>(frame, packet)
}

#[inline(always)]
fn read<const PLAIN: bool>(frame: &(impl Frame + ?Sized), packet: &mut Packet) -> Result<Shape, Unparsed> {
    let [macs, rest] = frame.words::<2>(0).ok_or(Unparsed::Truncated)?;
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, ..]) = (macs.to_ne_bytes(), rest.to_ne_bytes());
    packet.destination_mac = Mac::new([a, b, c, d, e, f]);
    packet.source_mac = Mac::new([g, h, i, j, k, l]);
    let mut ethertype = u16::from_be_bytes([m, n]);
    let mut l3 = ETHERNET_BYTES;
    for _ in 0..if PLAIN { 0 } else { MAX_VLAN_TAGS } {
        if ETHERTYPES_VLAN.contains(&ethertype) {
            if u16::from_be(frame.half(l3).ok_or(Unparsed::Truncated)?) & VLAN_ID != 0 {
                return Err(Unparsed::Other);
            }
            ethertype = u16::from_be(frame.half(l3 + 2).ok_or(Unparsed::Truncated)?);
            l3 += VLAN_TAG_BYTES;
        }
    }
    let is_v6 = match ethertype {
        ETHERTYPE_IPV4 => false,
        ETHERTYPE_IPV6 => true,
        _ => return Err(if PLAIN { Unparsed::NotPlain } else { Unparsed::Other }),
    };
    let mut outer = ip::Header::default();
    ip::read::<PLAIN>(frame, l3, is_v6, &mut outer)?;
    packet.l3 = l3 as u16;
    packet.l4 = outer.l4 as u16;
    packet.inner_l3 = 0;
    packet.inner_l4 = 0;
    packet.is_v6 = u8::from(is_v6);
    packet.length = outer.length;
    packet.time_to_live = outer.time_to_live;
    packet.fragment_id = outer.fragment_id;
    packet.is_first_fragment = u8::from(outer.fragment == Fragment::First);
    packet.outer_source = outer.source;
    packet.destination = outer.destination;
    (packet.seq, packet.ack) = (0, 0);
    packet.tcp_flags = 0;
    packet.is_unreachable = 0;
    packet.has_checksum = 1;
    let shape = match (outer.protocol, outer.fragment) {
        (TCP | UDP, Fragment::Later) => {
            packet.source = outer.source;
            packet.protocol = outer.protocol;
            (packet.source_port, packet.destination_port) = (WirePort::default(), WirePort::default());
            Shape::LaterFragment
        }
        (TCP | UDP, _) => {
            packet.source = outer.source;
            packet.protocol = outer.protocol;
            transport(frame, outer.l4, packet)?;
            Shape::Transport
        }
        _ if PLAIN => return Err(Unparsed::NotPlain),
        (ICMP, Fragment::None) if !is_v6 => icmp::read_error(frame, is_v6, outer.l4, packet)?,
        (ICMPV6, Fragment::None) if is_v6 => icmp::read_error(frame, is_v6, outer.l4, packet)?,
        _ => return Err(Unparsed::Other),
    };
    packet.shape = shape as u8;
    Ok(shape)
}

/// Reads ports, numbers and flags of TCP (RFC 9293, 3.1), and whether UDP has a checksum (RFC 768). It reads up to the last
/// field that may be rewritten later.
#[inline(always)]
fn transport(frame: &(impl Frame + ?Sized), l4: usize, packet: &mut Packet) -> Result<(), Unparsed> {
    let [first] = frame.words::<1>(l4).ok_or(Unparsed::Truncated)?;
    let [s0, s1, d0, d1, _, _, c0, c1] = first.to_ne_bytes();
    packet.source_port = WirePort::from_wire(u16::from_ne_bytes([s0, s1]));
    packet.destination_port = WirePort::from_wire(u16::from_ne_bytes([d0, d1]));
    if packet.protocol == UDP {
        packet.has_checksum = u8::from((c0 | c1) != 0);
        return Ok(());
    }
    let [numbers, second] = frame.words::<2>(l4 + 4).ok_or(Unparsed::Truncated)?;
    [packet.seq, packet.ack] = bytemuck::cast(numbers);
    let [_, flags, ..] = second.to_ne_bytes();
    packet.tcp_flags = flags;
    Ok(())
}
