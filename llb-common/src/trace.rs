// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What `llb-agent trace` shows of a packet, as the bytes in the ring buffer.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, WirePort};
use crate::backend::BackendId;

/// [`TraceEvent::reason`] of a packet that is forwarded without one.
pub const NO_REASON: u8 = u8::MAX;

/// A packet of the traced client, or to it: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TraceEvent {
    /// `CLOCK_MONOTONIC_COARSE`, in nanoseconds.
    pub nanoseconds: u64,
    /// As the packet came; of an ICMP error, the flow it is about.
    pub source: Address,
    /// In the same way.
    pub destination: Address,
    /// Where it is sent, or would have been; 0: none.
    pub backend: BackendId,
    /// The link that it came by.
    pub in_ifindex: u32,
    /// The link that it is sent by; 0: none.
    pub out_ifindex: u32,
    /// Source port.
    pub source_port: WirePort,
    /// Destination port.
    pub destination_port: WirePort,
    /// TCP or UDP.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// [`Verdict`](crate::reason::Verdict) as a number.
    pub verdict: u8,
    /// [`Reason`](crate::reason::Reason) as a number, or [`NO_REASON`].
    pub reason: u8,
    /// [`Shape`](crate::parse::Shape) as a number.
    pub shape: u8,
    /// 1: a reply.
    pub is_reply: u8,
    /// Bytes of the IP packet.
    pub length: u16,
}

const _: () = assert!(size_of::<TraceEvent>() == 64);
