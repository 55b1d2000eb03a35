// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! From the bytes of a frame to the flow that it belongs to. It decides
//! nothing: which flows are ours is found out later.
//!
//! Both families give the same [`Packet`]. An ICMP error gives the flow that it
//! is *about*, turned around: it concerns what one end sent, so it belongs
//! with what the other end sends, and comes from there.
//!
//! ```text
//!   frame --ethernet--> l3 --network--> l4 --TCP, UDP--> Shape::Transport
//!                 0-2 VLAN tags         |---later part of a fragmented packet--> Shape::LaterFragment
//!                                       `---ICMP error--> inner l3 --network--> inner l4 --> Shape::Error
//! ```

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac, WirePort};
use crate::frontend::{TCP, UDP};

/// Read access to a frame. Words are as they stand in memory; `None` is
/// outside of the frame, or of the part that can be read.
pub trait Frame {
    /// `N` words of eight bytes from `offset` on.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u64; N]>;
    /// Four bytes.
    fn word(&self, offset: usize) -> Option<u32>;
    /// Two bytes.
    fn half(&self, offset: usize) -> Option<u16>;
}

/// What kind of packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// With a TCP or UDP header; whole, or the first fragment.
    Transport = 1,
    /// A fragment without that header: ports are 0.
    LaterFragment = 2,
    /// An ICMP error about a TCP or UDP flow.
    Error = 3,
}

/// Why there is no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unparsed {
    /// No IP, no TCP or UDP and no ICMP error about them, or malformed.
    Other,
    /// It ends before its headers do, or the rest can't be read yet.
    Truncated,
    /// It is not plain: [`parse`] may know more.
    NotPlain,
}

/// What a frame says: 88 bytes. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Packet {
    /// Of the flow; of an error, the destination of the packet inside.
    pub source: Address,
    /// Of the flow; of an error, the source of the packet inside.
    pub destination: Address,
    /// Of the IP header: who sent an error, else `source`.
    pub outer_source: Address,
    /// Identification of a fragmented packet, as on the wire.
    pub fragment_id: u32,
    /// Source port of the flow.
    pub source_port: WirePort,
    /// Destination port of the flow.
    pub destination_port: WirePort,
    /// IP header.
    pub l3: u16,
    /// TCP, UDP or ICMP header.
    pub l4: u16,
    /// IP header inside of an error, else 0.
    pub inner_l3: u16,
    /// TCP or UDP header inside of an error, else 0.
    pub inner_l4: u16,
    /// Bytes of the IP packet, by its header.
    pub length: u16,
    /// Source of the frame.
    pub source_mac: Mac,
    /// Destination of the frame.
    pub destination_mac: Mac,
    /// [`TCP`] or [`UDP`], of an error: of the packet inside.
    pub protocol: u8,
    /// TCP flags; 0 for UDP, later fragments and errors.
    pub tcp_flags: u8,
    /// [`Shape`] as a number.
    pub shape: u8,
    /// 1: IPv6.
    pub is_v6: u8,
    /// Time to live, or hop limit.
    pub time_to_live: u8,
    /// 1: more fragments follow a [`Shape::Transport`].
    pub is_first_fragment: u8,
    /// 1: UDP with a checksum; always 1 for TCP.
    pub has_checksum: u8,
    /// 1: an error that says that the packet inside can't reach its destination: who sent
    /// it need not wait for an answer.
    pub is_unreachable: u8,
    /// Zeros.
    pub padding: [u8; 2],
}

const _: () = assert!(size_of::<Packet>() == 88);

impl Packet {
    /// Whether the IP packet has so many bytes from `offset` on. What is behind
    /// it in the frame is not of it, and no checksum covers it.
    #[inline(always)]
    pub const fn has(&self, offset: usize, bytes: usize) -> bool {
        offset + bytes <= self.l3 as usize + self.length as usize
    }

    /// Whether an error ends before the ports of the packet inside. It is none
    /// then, but [`parse`] leaves that to its caller: an eBPF verifier would
    /// follow each length on its own.
    #[inline(always)]
    pub const fn is_cut(&self) -> bool {
        self.inner_l4 != 0 && !self.has(self.inner_l4 as usize, QUOTED_BYTES)
    }
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Customer and service VLAN tags (IEEE 802.1Q).
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const ETHERNET_BYTES: usize = 14;
const VLAN_TAG_BYTES: usize = 4;
const MOST_VLAN_TAGS: usize = 2;

const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// ICMP header before the packet that an error is about, in both families.
const ICMP_BYTES: usize = 8;
/// What it has of that packet's TCP or UDP header, at least (RFC 792).
const QUOTED_BYTES: usize = 8;

/// Extension headers before TCP, UDP or ICMPv6 (RFC 8200, 4.1 lists six kinds;
/// more than three in one packet are not seen in the wild).
const MOST_EXTENSION_HEADERS: usize = 4;
/// Headers longer than this in sum are not looked through.
const MOST_HEADER_BYTES: usize = 512;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Fills `packet` where the frame belongs to a flow.
///
/// # Errors
/// It does not, as far as can be seen; `packet` may be half filled.
#[inline(always)]
pub fn parse(frame: &(impl Frame + ?Sized), packet: &mut Packet) -> Result<Shape, Unparsed> {
    read::<false>(frame, packet)
}

/// The same, for nearly all packets and much shorter: TCP and UDP without VLAN
/// tags, options, extension headers and fragments.
///
/// # Errors
/// [`Unparsed::NotPlain`], or as [`parse`].
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
    for _ in 0..if PLAIN { 0 } else { MOST_VLAN_TAGS } {
        if ETHERTYPES_VLAN.contains(&ethertype) {
            ethertype = u16::from_be(frame.half(l3 + 2).ok_or(Unparsed::Truncated)?);
            l3 += VLAN_TAG_BYTES;
        }
    }
    let is_v6 = match ethertype {
        ETHERTYPE_IPV4 => false,
        ETHERTYPE_IPV6 => true,
        _ => return Err(no_flow::<PLAIN>()),
    };
    let outer = network::<PLAIN>(frame, l3, is_v6)?;
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
        (ICMP, Fragment::None) if !is_v6 => about(frame, is_v6, outer.l4, packet)?,
        (ICMPV6, Fragment::None) if is_v6 => about(frame, is_v6, outer.l4, packet)?,
        _ => return Err(Unparsed::Other),
    };
    packet.shape = shape as u8;
    Ok(shape)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fragment {
    None,
    First,
    Later,
}

/// What an IP header says.
struct Network {
    source: Address,
    destination: Address,
    protocol: u8,
    time_to_live: u8,
    fragment: Fragment,
    fragment_id: u32,
    length: u16,
    l4: usize,
}

/// What is said of a frame that has no flow, as far as was read.
#[inline(always)]
const fn no_flow<const PLAIN: bool>() -> Unparsed {
    if PLAIN { Unparsed::NotPlain } else { Unparsed::Other }
}

#[inline(always)]
fn network<const PLAIN: bool>(
    frame: &(impl Frame + ?Sized),
    l3: usize,
    is_v6: bool,
) -> Result<Network, Unparsed> {
    if is_v6 { ipv6::<PLAIN>(frame, l3) } else { ipv4::<PLAIN>(frame, l3) }
}

/// RFC 791, 3.1. Options are skipped.
#[inline(always)]
fn ipv4<const PLAIN: bool>(frame: &(impl Frame + ?Sized), l3: usize) -> Result<Network, Unparsed> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const FRAGMENT_OFFSET: u16 = 0x1fff;
    let [first, second] = frame.words::<2>(l3).ok_or(Unparsed::Truncated)?;
    let destination = frame.word(l3 + 16).ok_or(Unparsed::Truncated)?;
    let [version, _, l0, l1, i0, i1, f0, f1] = first.to_ne_bytes();
    let [time_to_live, protocol, ..] = second.to_ne_bytes();
    let header_bytes = usize::from(version & 0xf) * 4;
    if version >> 4 != 4 || header_bytes < IPV4_BYTES {
        return Err(Unparsed::Other);
    }
    let flags = u16::from_be_bytes([f0, f1]);
    if PLAIN && (header_bytes != IPV4_BYTES || flags & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0) {
        return Err(Unparsed::NotPlain);
    }
    let fragment = match (flags & FRAGMENT_OFFSET, flags & MORE_FRAGMENTS) {
        (0, 0) => Fragment::None,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    Ok(Network {
        source: Address::from_v4_word(last_half(second)),
        destination: Address::from_v4_word(destination),
        protocol,
        time_to_live,
        fragment,
        fragment_id: u32::from(u16::from_ne_bytes([i0, i1])),
        length: u16::from_be_bytes([l0, l1]),
        l4: l3 + if PLAIN { IPV4_BYTES } else { header_bytes },
    })
}

/// The last four bytes of a word, as a word of memory.
#[inline(always)]
const fn last_half(word: u64) -> u32 {
    (if cfg!(target_endian = "little") { word >> 32 } else { word }) as u32
}

/// RFC 8200, 3 and 4.
#[inline(always)]
fn ipv6<const PLAIN: bool>(frame: &(impl Frame + ?Sized), l3: usize) -> Result<Network, Unparsed> {
    let [first, s0, s1, d0, d1] = frame.words::<5>(l3).ok_or(Unparsed::Truncated)?;
    let [version, _, _, _, l0, l1, mut next, time_to_live] = first.to_ne_bytes();
    if version >> 4 != 6 {
        return Err(Unparsed::Other);
    }
    let (source, destination) = (Address::from_words([s0, s1]), Address::from_words([d0, d1]));
    // Right in no packet (RFC 4291, 2.5.5.2), and it would be taken for IPv4's.
    if source.is_v4() || destination.is_v4() {
        return Err(Unparsed::Other);
    }
    let mut l4 = l3 + IPV6_BYTES;
    let (mut fragment, mut fragment_id) = (Fragment::None, 0);
    for _ in 0..if PLAIN { 0 } else { MOST_EXTENSION_HEADERS } {
        // Eight bytes times this, and eight.
        let more = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT => {
                let [header] = frame.words::<1>(l4).ok_or(Unparsed::Truncated)?;
                let [following, length, b2, b3, i0, i1, i2, i3] = header.to_ne_bytes();
                let kind = next;
                next = following;
                match kind {
                    // Its destination is another one yet.
                    ROUTING if b3 != 0 => return Err(Unparsed::Other),
                    FRAGMENT => {
                        let field = u16::from_be_bytes([b2, b3]);
                        fragment_id = u32::from_ne_bytes([i0, i1, i2, i3]);
                        if field >> 3 != 0 {
                            fragment = Fragment::Later;
                        } else if field & 1 != 0 {
                            fragment = Fragment::First;
                        }
                        0
                    }
                    // In words of four bytes, less two (RFC 4302, 2.2).
                    AUTHENTICATION => usize::from(length) * 4,
                    _ => usize::from(length) * 8,
                }
            }
            _ => break,
        };
        l4 += more + 8;
        if l4 > l3 + MOST_HEADER_BYTES {
            return Err(Unparsed::Other);
        }
        if fragment == Fragment::Later {
            break;
        }
    }
    Ok(Network {
        source,
        destination,
        protocol: next,
        time_to_live,
        fragment,
        fragment_id,
        length: u16::from_be_bytes([l0, l1]).saturating_add(IPV6_BYTES as u16),
        l4,
    })
}

/// RFC 9293, 3.1, and RFC 768. What is read here can be written later.
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
    let [second] = frame.words::<1>(l4 + 12).ok_or(Unparsed::Truncated)?;
    let [_, flags, ..] = second.to_ne_bytes();
    packet.tcp_flags = flags;
    Ok(())
}

/// An ICMP error (RFC 792: unreachable, time exceeded, parameter problem; RFC
/// 4443: those and packet too big).
#[inline(always)]
fn about(
    frame: &(impl Frame + ?Sized),
    is_v6: bool,
    l4: usize,
    packet: &mut Packet,
) -> Result<Shape, Unparsed> {
    /// IPv4 only; its own type with IPv6.
    const FRAGMENTATION_NEEDED: u8 = 4;
    let [kind, code] = frame.half(l4).ok_or(Unparsed::Truncated)?.to_ne_bytes();
    let is_error = if is_v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) };
    if !is_error {
        return Err(Unparsed::Other);
    }
    let inner = network::<false>(frame, l4 + ICMP_BYTES, is_v6)?;
    if !matches!(inner.protocol, TCP | UDP) || inner.fragment == Fragment::Later {
        return Err(Unparsed::Other);
    }
    // Who sent the packet inside is told about it.
    if inner.source != packet.destination {
        return Err(Unparsed::Other);
    }
    // Eight bytes of it are all that can be relied on (RFC 792).
    let [first] = frame.words::<1>(inner.l4).ok_or(Unparsed::Truncated)?;
    let [s0, s1, d0, d1, ..] = first.to_ne_bytes();
    packet.source = inner.destination;
    packet.source_port = WirePort::from_wire(u16::from_ne_bytes([d0, d1]));
    packet.destination_port = WirePort::from_wire(u16::from_ne_bytes([s0, s1]));
    packet.protocol = inner.protocol;
    let is_unreachable = if is_v6 { kind == 1 } else { kind == 3 && code != FRAGMENTATION_NEEDED };
    packet.is_unreachable = u8::from(is_unreachable);
    packet.inner_l3 = (l4 + ICMP_BYTES) as u16;
    packet.inner_l4 = inner.l4 as u16;
    Ok(Shape::Error)
}

impl Frame for [u8] {
    fn words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let bytes = self.get(offset..offset + 8 * N)?;
        Some(core::array::from_fn(|n| bytemuck::pod_read_unaligned(&bytes[8 * n..8 * n + 8])))
    }

    fn word(&self, offset: usize) -> Option<u32> {
        self.get(offset..offset + 4).map(bytemuck::pod_read_unaligned)
    }

    fn half(&self, offset: usize) -> Option<u16> {
        self.get(offset..offset + 2).map(bytemuck::pod_read_unaligned)
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
