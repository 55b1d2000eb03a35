// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packets that were dropped and whose sender is to be told why by ICMP: what
//! the programs give the agent, which writes the answer.

use bytemuck::{Pod, Zeroable};

/// Most bytes of a packet that are given: an IPv6 header with extension headers,
/// and what a sender recognizes its packet by (RFC 792; RFC 4443, 2.4).
pub const NOTICE_BYTES: usize = 128;

/// A packet whose sender is to be told: 144 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Notice {
    /// [`Reason::TooBig`](crate::reason::Reason) or
    /// [`Reason::TimeToLive`](crate::reason::Reason), as a number.
    pub reason: u32,
    /// Bytes of the largest IP packet that would pass.
    pub mtu: u32,
    /// How many bytes of `packet` there are.
    pub length: u32,
    /// The link that it came by.
    pub ifindex: u32,
    /// From the IP header on, as it came.
    pub packet: [u8; NOTICE_BYTES],
}

const _: () = assert!(size_of::<Notice>() == 16 + NOTICE_BYTES);
