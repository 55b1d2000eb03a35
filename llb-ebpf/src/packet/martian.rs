// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packets whose source can't be another host. Answered, they would come back: a packet from a VIP to itself
//! would circle for ever, and an answer to many hosts would multiply it. Known flows are not looked at: none
//! begins with such a packet.

use llb_common::address::Address;
use llb_common::parse::Packet;

use crate::maps::{SETTINGS, VIPS};
use crate::outcome::Done;

/// Whether the packet's source is an address that no other host has.
#[inline(never)]
pub(crate) fn is_martian(packet: &Packet) -> Done {
    let source = &packet.outer_source;
    Done::from(!source.may_be_a_source() || is_own(source))
}

/// Whether the address is a VIP, or a source address of mode NAT.
#[inline(always)]
fn is_own(address: &Address) -> bool {
    // SAFETY: the value behind the reference is not read.
    let is_vip = unsafe { VIPS.get(address) }.is_some();
    is_vip || SETTINGS.get(0).is_some_and(|settings| settings.snat.contains(address))
}
