// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Gives the agent what a sender must be told about: path MTU discovery and
//! traceroute depend on it. The agent writes the answer, for it is rare, and
//! needs a packet of its own.

use core::ffi::c_void;

use llb_common::notice::NOTICE_BYTES;
use llb_common::parse::Packet;
use llb_common::reason::Reason;

use crate::hooks::Hook;
use crate::maps::{NOTICES, backend};
use crate::{decide::Decision, rewrite};

/// How much is tried to give: all, or the least that tells something, which is
/// an IP header (of IPv6, of IPv4) with eight bytes behind it.
const LENGTHS: [usize; 3] = [NOTICE_BYTES, 48, 28];

/// Whether the sender of a packet that was dropped is to be told.
#[inline(always)]
pub(crate) fn is_due(reason: Reason) -> bool {
    matches!(reason, Reason::TooBig | Reason::TimeToLive)
}

/// Gives the packet to the agent; if that is too slow, the sender is not told.
#[inline(never)]
pub(crate) fn give<H: Hook>(
    context: *mut c_void,
    packet: &Packet,
    decision: &Decision,
    ifindex: u32,
    reason: u32,
) -> u32 {
    let hook = H::open(context);
    let Some(mut entry) = NOTICES.reserve(0) else { return 0 };
    let place = entry.as_mut_ptr();
    let mtu = backend(decision.backend).map_or(0, |backend| u32::from(backend.mtu));
    let from = rewrite::offset(packet.l3) as u32;
    // SAFETY: the entry is as large as a notice, and nobody else has it.
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
        return 0;
    }
    // SAFETY: as above.
    unsafe {
        (*place).reason = reason;
        (*place).mtu = mtu;
        (*place).length = length;
        (*place).ifindex = ifindex;
    }
    entry.submit(0);
    1
}
