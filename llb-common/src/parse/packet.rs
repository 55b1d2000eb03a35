// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the parser finds in a frame, and the words for what it does not.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac, WirePort};
use crate::conntrack::{ACK, FragmentKey};

/// Bytes of a packet's TCP or UDP header that an ICMP error about it quotes, at least (RFC 792).
const QUOTED_BYTES: usize = 8;

/// The kind of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// It has a TCP or UDP header: a whole packet, or the first fragment of one.
    Transport = 1,
    /// A fragment without that header. Its ports are 0.
    LaterFragment = 2,
    /// An ICMP error about a TCP or UDP flow.
    Error = 3,
}

/// Why a frame gives no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unparsed {
    /// It is not IP, it is neither TCP, UDP nor an ICMP error about one of them, or it is malformed. Or it is in a
    /// VLAN, which is a link of its own.
    Other,
    /// It ends before its headers do, or the rest can't be read yet.
    Truncated,
    /// [`parse_plain`](super::parse_plain) does not know such packets; [`parse`](super::parse) may.
    NotPlain,
}

/// What the headers of a frame say: 96 bytes. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Packet {
    /// Source of the flow. For an error: the destination of the packet inside.
    pub source: Address,
    /// Destination of the flow. For an error: the source of the packet inside.
    pub destination: Address,
    /// Source in the outer IP header: the sender of an error, else the same as `source`.
    pub outer_source: Address,
    /// Identification of a fragmented packet, in network order. IPv4 has two bytes of it.
    pub fragment_id: u32,
    /// Sequence number of TCP, in network order; for an error: that of the packet inside. 0 for UDP and later
    /// fragments.
    pub seq: u32,
    /// Acknowledgement number of TCP, in network order. 0 for UDP, later fragments and errors.
    pub ack: u32,
    /// Source port of the flow.
    pub source_port: WirePort,
    /// Destination port of the flow.
    pub destination_port: WirePort,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the TCP, UDP or ICMP header.
    pub l4: u16,
    /// Offset of the IP header inside an error, else 0.
    pub inner_l3: u16,
    /// Offset of the TCP or UDP header inside an error, else 0.
    pub inner_l4: u16,
    /// Bytes of the IP packet, as its header says.
    pub length: u16,
    /// Source MAC address of the frame.
    pub source_mac: Mac,
    /// Destination MAC address of the frame.
    pub destination_mac: Mac,
    /// [`TCP`](crate::frontend::TCP) or [`UDP`](crate::frontend::UDP). For an error: that of the packet
    /// inside.
    pub protocol: u8,
    /// TCP flags. 0 for UDP, later fragments and errors.
    pub tcp_flags: u8,
    /// [`Shape`] as a number.
    pub shape: u8,
    /// 1: IPv6, 0: IPv4.
    pub is_v6: u8,
    /// Time to live, or hop limit.
    pub time_to_live: u8,
    /// 1: a [`Shape::Transport`] with more fragments to follow.
    pub is_first_fragment: u8,
    /// 1: UDP with a checksum. Always 1 for TCP.
    pub has_checksum: u8,
    /// 1: an error that says that the packet inside can't reach its destination, so no answer will come.
    pub is_unreachable: u8,
    /// Zeros.
    pub padding: [u8; 2],
}

const _: () = assert!(size_of::<Packet>() == 96);

impl Packet {
    /// What all fragments of this packet have in common.
    #[inline(always)]
    pub fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            source: self.source,
            destination: self.destination,
            id: self.fragment_id,
            protocol: self.protocol,
            padding: [0; 3],
        }
    }

    /// Sequence number of TCP.
    #[inline(always)]
    pub const fn sequence(&self) -> u32 {
        u32::from_be(self.seq)
    }

    /// Where the stream of the other side is, if the packet says so; else 0.
    #[inline(always)]
    pub const fn acknowledged(&self) -> u32 {
        if self.tcp_flags & ACK != 0 { u32::from_be(self.ack) } else { 0 }
    }

    /// Whether the IP packet has `bytes` bytes from `offset` on. Bytes behind its end may be in the frame,
    /// but do not belong to it, and no checksum covers them.
    #[inline(always)]
    pub const fn has(&self, offset: usize, bytes: usize) -> bool {
        offset + bytes <= self.l3 as usize + self.length as usize
    }

    /// Whether an error ends before the ports of the packet inside. Such an error is no use.
    /// [`parse`](super::parse) leaves this check to its caller, because an eBPF verifier would follow each
    /// length on a path of its own.
    #[inline(always)]
    pub const fn is_cut(&self) -> bool {
        self.inner_l4 != 0 && !self.has(self.inner_l4 as usize, QUOTED_BYTES)
    }
}
