// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What `llb-agent trace` shows of a packet, as the programs write it into the ring buffer `TRACE`.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, WirePort};
use crate::backend::BackendId;

/// [`TraceEvent::reason`] of a packet that is forwarded.
pub const NO_REASON: u8 = u8::MAX;

/// A packet from or to the traced client: 64 bytes, numbers in native byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TraceEvent {
    /// `CLOCK_MONOTONIC_COARSE`, in nanoseconds.
    pub nanoseconds: u64,
    /// Source of the packet as it came. For an ICMP error: source of the flow that it is about, see
    /// [`Packet::source`](crate::parse::Packet::source).
    pub source: Address,
    /// Destination of the packet as it came; for an ICMP error likewise.
    pub destination: Address,
    /// The backend that the packet is sent to or came from, also if it is not forwarded in the end; 0: none.
    pub backend: BackendId,
    /// Index of the link by which the packet came.
    pub in_ifindex: u32,
    /// Index of the link by which the packet is sent; 0: none.
    pub out_ifindex: u32,
    /// Source port, for an ICMP error that of the flow.
    pub source_port: WirePort,
    /// Destination port, for an ICMP error that of the flow.
    pub destination_port: WirePort,
    /// [`TCP`](crate::frontend::TCP) or [`UDP`](crate::frontend::UDP).
    pub protocol: u8,
    /// TCP flags; 0 if there are none.
    pub tcp_flags: u8,
    /// [`Verdict`](crate::reason::Verdict) as a number.
    pub verdict: u8,
    /// [`Reason`](crate::reason::Reason) as a number, or [`NO_REASON`].
    pub reason: u8,
    /// [`Shape`](crate::parse::Shape) as a number.
    pub shape: u8,
    /// 1: a reply, 0: a client's packet.
    pub is_reply: u8,
    /// Bytes of the IP packet.
    pub length: u16,
}

const _: () = assert!(size_of::<TraceEvent>() == 64);
