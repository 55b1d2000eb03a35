// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Counts frames of the link, packets and flows of each backend, and reasons.

use llb_common::backend::BackendId;
use llb_common::counters::LinkCounters;
use llb_common::reason::Reason;

use crate::maps::{LINK_COUNTERS, REASONS, TRAFFIC};

/// Counts one frame of `length` bytes.
#[inline(always)]
pub(crate) fn count_frame(length: u64) {
    let Some(counters) = LINK_COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: `LINK_COUNTERS` is a per-CPU map, so this value is of this CPU only, and it is valid until the
    // program returns. No other run of the program begins on this CPU before that.
    unsafe { *counters = (*counters).plus(LinkCounters { packets: 1, bytes: length }) };
}

/// Counts a packet to a backend or, as a reply, from it.
#[inline(always)]
pub(crate) fn count_packet(backend: BackendId, length: u16, is_reply: bool) {
    let Some(traffic) = TRAFFIC.get_ptr_mut(backend.index()) else { return };
    // SAFETY: `TRAFFIC` is a per-CPU map, so this value is of this CPU only, and it is valid until the
    // program returns. If the program of the other hook interrupted this one, a count would be lost.
    let traffic = unsafe { &mut *traffic };
    let (packets, bytes) = if is_reply {
        (&mut traffic.reply_packets, &mut traffic.reply_bytes)
    } else {
        (&mut traffic.packets, &mut traffic.bytes)
    };
    *packets = packets.wrapping_add(1);
    *bytes = bytes.wrapping_add(u64::from(length));
}

/// Counts a flow that begins.
#[inline(always)]
pub(crate) fn count_flow(backend: BackendId) {
    let Some(traffic) = TRAFFIC.get_ptr_mut(backend.index()) else { return };
    // SAFETY: `TRAFFIC` is a per-CPU map, so this value is of this CPU only, and it is valid until the
    // program returns. If the program of the other hook interrupted this one, a count would be lost.
    unsafe { (*traffic).flows = (*traffic).flows.wrapping_add(1) };
}

/// Counts a reason.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    let Some(count) = REASONS.get_ptr_mut(reason as u32) else { return };
    // SAFETY: `REASONS` is a per-CPU map, so this value is of this CPU only, and it is valid until the
    // program returns. If the program of the other hook interrupted this one, a count would be lost.
    unsafe { *count = (*count).wrapping_add(1) };
}
