// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packets that were dropped and whose sender must be told so by ICMP. The programs give them to the agent,
//! which sends the ICMP error.

use bytemuck::{Pod, Zeroable};

/// The most bytes of a packet that are given: enough for an IPv6 header with extension headers and the first
/// bytes behind them, by which the sender recognizes its packet (RFC 792; RFC 4443, 2.4).
pub const NOTICE_BYTES: usize = 128;

/// A packet whose sender must be told: 144 bytes, numbers in native byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Notice {
    /// [`Reason::TooBig`](crate::reason::Reason) or
    /// [`Reason::TimeToLive`](crate::reason::Reason), as a number.
    pub reason: u32,
    /// Bytes of the largest IP packet that would be forwarded; 0: not known.
    pub mtu: u32,
    /// How many bytes of `packet` are valid.
    pub length: u32,
    /// Index of the link by which the packet came.
    pub ifindex: u32,
    /// The packet as it came, from its IP header on.
    pub packet: [u8; NOTICE_BYTES],
}

const _: () = assert!(size_of::<Notice>() == 16 + NOTICE_BYTES);
