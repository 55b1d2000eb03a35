// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Writes into the packet what was decided. All bounds are checked before the first byte is written. After
//! that only the kernel can refuse a change; the packet is then dropped.

use core::ffi::c_void;

use llb_common::address::joined;
use llb_common::checksum::Change;
use llb_common::frontend::UDP;
use llb_common::parse::{Packet, Shape};

use crate::decision::Decision;
use crate::headers::{TCP_CHECKSUM, UDP_CHECKSUM, limit_time_to_live, offset, write_ip};
use crate::hooks::Hook;
use crate::icmp_error;
use crate::outcome::Done;

/// `None`: it failed, and the packet must be dropped, since it may be half rewritten.
#[inline(always)]
pub(crate) fn apply<H: Hook>(context: *mut c_void, packet: &Packet, decision: &Decision) -> Option<()> {
    // Inlined for DSR: on CPUs that guard returns from functions, the return would take as long as the
    // rewrite.
    if decision.is_nat == 0 {
        return write_dsr(&H::open(context), packet, decision);
    }
    apply_nat::<H>(context, packet, decision).is_yes().then_some(())
}

/// Not inlined, so that it has a stack frame of its own.
#[inline(never)]
fn apply_nat<H: Hook>(context: *mut c_void, packet: &Packet, decision: &Decision) -> Done {
    let hook = &mut H::open(context);
    let is_translated = if packet.shape == Shape::Error as u8 {
        icmp_error::translate(hook, packet, decision)
    } else {
        translate(hook, packet, decision)
    };
    is_translated.and_then(|()| write_ethernet(hook, decision)).is_some().into()
}

/// Mode DSR: writes the MAC addresses and the time to live.
#[inline(always)]
fn write_dsr<H: Hook>(hook: &H, packet: &Packet, decision: &Decision) -> Option<()> {
    limit_time_to_live(hook, offset(packet.l3), packet)?;
    write_ethernet(hook, decision)
}

/// Writes the MAC addresses. The four bytes in the middle are the end of one and the beginning of the other.
#[inline(always)]
fn write_ethernet<H: Hook>(hook: &H, decision: &Decision) -> Option<()> {
    let ethernet = hook.window::<14>(0)?;
    let ([a, b, c], [d, e, f]) = (decision.destination_mac.halves(), decision.source_mac.halves());
    ethernet.store_32::<0>(joined(a, b));
    ethernet.store_32::<4>(joined(c, d));
    ethernet.store_32::<8>(joined(e, f));
    Some(())
}

/// Translates a TCP or UDP packet, or a later fragment of one.
#[inline(always)]
fn translate<H: Hook>(hook: &mut H, packet: &Packet, decision: &Decision) -> Option<()> {
    let (l3, l4) = (offset(packet.l3), offset(packet.l4));
    let is_udp = packet.protocol == UDP;
    let addresses = Change::NONE
        .address(&packet.source, &decision.source)
        .address(&packet.destination, &decision.destination);
    if packet.shape == Shape::Transport as u8 {
        let ports = Change::NONE
            .half(packet.source_port.wire(), decision.source_port.wire())
            .half(packet.destination_port.wire(), decision.destination_port.wire());
        let checksum = l4 + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
        if !hook.change_checksum(checksum, addresses, ports, is_udp) {
            return None;
        }
        let header = hook.window::<4>(l4)?;
        header.store_16::<0>(decision.source_port.wire());
        header.store_16::<2>(decision.destination_port.wire());
    }
    write_ip(hook, l3, packet, addresses, decision)
}
