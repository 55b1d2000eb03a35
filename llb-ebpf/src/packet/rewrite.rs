// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Writes what was decided. All bounds are checked before the first byte is
//! written; after that only a refusal of the kernel's can stop it, and then the
//! packet is dropped.

use core::ffi::c_void;

use llb_common::address::Address;
use llb_common::checksum::Change;
use llb_common::frontend::UDP;
use llb_common::parse::{Packet, Shape};

use crate::decide::Decision;
use crate::errors;
use crate::hooks::Hook;
use crate::window::Window;

/// Larger than every offset that the parser gives: tells the verifier so.
const MOST_OFFSET: u16 = 0x7ff;

/// Bytes of a header whose length does not vary.
pub(crate) const IPV4_BYTES: usize = 20;
/// See [`IPV4_BYTES`].
pub(crate) const IPV6_BYTES: usize = 40;

/// Where the checksum is in a TCP (RFC 9293, 3.1) and in a UDP header (RFC 768).
pub(crate) const TCP_CHECKSUM: usize = 16;
/// See [`TCP_CHECKSUM`].
pub(crate) const UDP_CHECKSUM: usize = 6;

/// `None`: it failed, and nothing may become of the packet.
#[inline(always)]
pub(crate) fn apply<H: Hook>(context: *mut c_void, packet: &Packet, decision: &Decision) -> Option<()> {
    // For DSR no function of its own: coming back from one takes as long as all
    // that there is to do, on CPUs that guard returns.
    if decision.is_nat == 0 {
        return ethernet(&H::open(context), decision);
    }
    (apply_nat::<H>(context, packet, decision) != 0).then_some(())
}

/// 1, or 0: it failed. A function of its own, for its own stack.
#[inline(never)]
fn apply_nat<H: Hook>(context: *mut c_void, packet: &Packet, decision: &Decision) -> u32 {
    let hook = &mut H::open(context);
    let is_translated = if packet.shape == Shape::Error as u8 {
        errors::translate(hook, packet, decision)
    } else {
        translate(hook, packet, decision)
    };
    u32::from(is_translated.and_then(|()| ethernet(hook, decision)).is_some())
}

#[inline(always)]
fn ethernet<H: Hook>(hook: &H, decision: &Decision) -> Option<()> {
    let ethernet = hook.window::<14>(0)?;
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) =
        (decision.destination_mac.bytes(), decision.source_mac.bytes());
    ethernet.store_32::<0>(u32::from_ne_bytes([a, b, c, d]));
    ethernet.store_32::<4>(u32::from_ne_bytes([e, f, g, h]));
    ethernet.store_32::<8>(u32::from_ne_bytes([i, j, k, l]));
    Some(())
}

/// TCP or UDP, or a later fragment of it.
#[inline(always)]
fn translate<H: Hook>(hook: &mut H, packet: &Packet, decision: &Decision) -> Option<()> {
    let (l3, l4) = (offset(packet.l3), offset(packet.l4));
    let is_udp = packet.protocol == UDP;
    let addresses = Change::NONE
        .address(packet.source, decision.source)
        .address(packet.destination, decision.destination);
    if packet.shape == Shape::Transport as u8 {
        let ports = Change::NONE
            .half(packet.source_port.wire(), decision.source_port.wire())
            .half(packet.destination_port.wire(), decision.destination_port.wire());
        let checksum = l4 + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
        // The parser has seen these; so has no helper refused them since.
        hook.window::<2>(checksum)?;
        if !hook.change_checksum(checksum, addresses, ports, is_udp) {
            return None;
        }
        let header = hook.window::<4>(l4)?;
        header.store_16::<0>(decision.source_port.wire());
        header.store_16::<2>(decision.destination_port.wire());
    }
    network(hook, l3, packet, addresses, decision)
}

/// The IP header: addresses, time to live, and the checksum that IPv4 has.
#[inline(always)]
pub(crate) fn network<H: Hook>(
    hook: &H,
    l3: usize,
    packet: &Packet,
    addresses: Change,
    decision: &Decision,
) -> Option<()> {
    if packet.is_v6 != 0 {
        let header = hook.window::<IPV6_BYTES>(l3)?;
        let [next, hop_limit] = header.load_16::<6>().to_ne_bytes();
        header.store_16::<6>(u16::from_ne_bytes([next, hop_limit.wrapping_sub(1)]));
        store_v6::<8, 16>(header, decision.source);
        store_v6::<24, 32>(header, decision.destination);
    } else {
        let header = hook.window::<IPV4_BYTES>(l3)?;
        let old = header.load_16::<8>();
        let [time_to_live, protocol] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([time_to_live.wrapping_sub(1), protocol]);
        let checksum = addresses.half(old, new).apply(header.load_16::<10>());
        header.store_16::<8>(new);
        header.store_16::<10>(checksum);
        header.store_32::<12>(decision.source.v4_word());
        header.store_32::<16>(decision.destination.v4_word());
    }
    Some(())
}

/// An IPv6 address, whose two words are at `HIGH` and `LOW`.
#[inline(always)]
pub(crate) fn store_v6<const HIGH: usize, const LOW: usize>(header: Window, address: Address) {
    let [high, low] = address.words();
    header.store_64::<HIGH>(high);
    header.store_64::<LOW>(low);
}

/// An offset of the parser's, for the verifier.
#[inline(always)]
pub(crate) fn offset(offset: u16) -> usize {
    usize::from(offset & MOST_OFFSET)
}
