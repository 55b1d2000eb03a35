// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Gives the agent packets that were dropped and whose sender must be told so by ICMP. Path MTU discovery and
//! traceroute depend on it. The agent sends the answer: it is rare, and needs a packet of its own, which a
//! program can't make.

use core::ffi::c_void;

use llb_common::notice::NOTICE_BYTES;
use llb_common::parse::{Packet, Shape};
use llb_common::reason::Reason;

use crate::decision::Decision;
use crate::headers;
use crate::hooks::Hook;
use crate::maps::{NOTICES, backend};

/// How many bytes of the packet are given, in the order in which they are tried: as many as fit, else the header (of
/// IPv6, of IPv4) and the eight bytes behind it, by which a sender recognizes its packet.
const LENGTHS: [usize; 3] = [NOTICE_BYTES, 48, 28];

/// Whether the sender of a packet that was dropped for this reason is told. Nobody is told about an ICMP error,
/// or about a fragment but the first (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)).
#[inline(always)]
pub(crate) fn is_due(reason: Reason, packet: &Packet) -> bool {
    matches!(reason, Reason::TooBig | Reason::TimeToLive) && packet.shape == Shape::Transport as u8
}

/// Gives the packet to the agent. If the ring buffer is full, the sender is not told.
#[inline(never)]
pub(crate) fn give<H: Hook>(
    context: *mut c_void,
    packet: &Packet,
    decision: &Decision,
    ifindex: u32,
    reason: u32,
) {
    let hook = H::open(context);
    let Some(mut entry) = NOTICES.reserve(0) else { return };
    let place = entry.as_mut_ptr();
    let mtu = backend(decision.backend).map_or(0, |backend| u32::from(backend.mtu));
    let from = headers::offset(packet.l3) as u32;
    // SAFETY: `place` points to the reserved entry, which has the size of a notice and which nothing else
    // uses until it is submitted.
    let bytes = unsafe { (&raw mut (*place).packet).cast::<c_void>() };
    let mut length = 0;
    for most in LENGTHS {
        if hook.load(from, bytes, most as u32) {
            length = most as u32;
            break;
        }
    }
    if length == 0 {
        entry.discard(0);
        return;
    }
    // SAFETY: `place` points to the reserved entry, which has the size of a notice and which nothing else
    // uses until it is submitted.
    unsafe {
        (*place).reason = reason;
        (*place).mtu = mtu;
        (*place).length = length;
        (*place).ifindex = ifindex;
    }
    entry.submit(0);
}
