// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Later fragments that come before the first one of their packet. The programs do not know the ports of such a
//! packet, so they give the agent a copy of each, and tell it where the packet goes once the first fragment has come.
//!
//! An entry of the ring `EARLY` is a [`Release`], or a frame in [`SMALL_FRAME`] or [`LARGE_FRAME`] bytes. What is
//! behind the end of the frame's IP packet does not belong to it.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac};
use crate::conntrack::FragmentKey;

/// Room for a frame of an MTU of 1500 bytes, with two VLAN tags.
pub const SMALL_FRAME: usize = 1528;
/// Room for a frame of an MTU of 9216 bytes, with two VLAN tags. Larger ones are not copied.
pub const LARGE_FRAME: usize = 9248;

/// A first fragment was forwarded after others of its packet had come: where it went, and what was written into it.
/// 96 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Release {
    /// The key of the packet's fragments.
    pub key: FragmentKey,
    /// The new source, in mode NAT.
    pub source: Address,
    /// The new destination, in mode NAT.
    pub destination: Address,
    /// The link that the fragments are sent by.
    pub ifindex: u32,
    /// 1: mode NAT. 0: mode DSR, in which the addresses stay.
    pub is_nat: u32,
    /// The next hop.
    pub destination_mac: Mac,
    /// Our MAC address on that link.
    pub source_mac: Mac,
    /// Zeros.
    pub padding: [u8; 4],
}

const _: () = assert!(size_of::<Release>() == 96);
