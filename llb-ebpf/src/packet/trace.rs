// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Writes what was decided about one client's packets into the ring buffer `TRACE`, for `llb-agent trace`.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns};
use llb_common::parse::Packet;
use llb_common::reason::{Reason, Verdict};
use llb_common::trace::{NO_REASON, TraceEvent};

use crate::decision::Decision;
use crate::maps::{SETTINGS, TRACE};

/// Shows the packet if it is from or to the traced client. `reason` is as in [`TraceEvent`].
#[inline(never)]
pub(crate) fn show(packet: &Packet, decision: &Decision, ifindex: u32, is_reply: u32, reason: u32) {
    let Some(settings) = SETTINGS.get(0) else { return };
    let (is_reply, reason) = (is_reply != 0, reason as u8);
    let is_forwarded = reason == NO_REASON;
    let client = if is_reply && is_forwarded { decision.destination } else { packet.source };
    // SAFETY: the helper takes no arguments.
    if client != settings.trace_client || unsafe { bpf_get_prandom_u32() } & settings.trace_mask != 0 {
        return;
    }
    let event = TraceEvent {
        // SAFETY: the helper takes no arguments.
        nanoseconds: unsafe { bpf_ktime_get_coarse_ns() },
        source: packet.source,
        destination: packet.destination,
        backend: decision.backend,
        in_ifindex: ifindex,
        out_ifindex: if is_forwarded { decision.ifindex } else { 0 },
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        tcp_flags: packet.tcp_flags,
        verdict: Reason::ALL.get(usize::from(reason)).map_or(Verdict::Forward, |reason| reason.verdict())
            as u8,
        reason,
        shape: packet.shape,
        is_reply: u8::from(is_reply),
        length: packet.length,
    };
    // If the ring buffer is full, the reader is too slow and misses this event.
    let _ = TRACE.output(&event, 0);
}
