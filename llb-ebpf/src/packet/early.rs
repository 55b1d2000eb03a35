// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Gives the agent later fragments that come before the first one of their packet. A program can't hold a packet back,
//! nor send more than one.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
use aya_ebpf::helpers::bpf_ringbuf_query;
use llb_common::conntrack::FragmentKey;
use llb_common::early::{LARGE_FRAME, Release, SMALL_FRAME};
use llb_common::maps;
use llb_common::parse::Packet;

use crate::decision::Decision;
use crate::hooks::Hook;
use crate::maps::EARLY;
use crate::outcome::Done;
use crate::window::hide;

/// With this many bytes in the ring, no more is copied. The rest is for releases.
const FULL: u64 = maps::EARLY.capacity as u64 / 16 * 15;

/// Whether the packet can be copied now.
#[inline(always)]
pub(crate) fn has_room<H: Hook>(context: *mut c_void, packet: &Packet) -> bool {
    // SAFETY: the helper only reads the positions of the ring.
    let waiting =
        unsafe { bpf_ringbuf_query((&raw const EARLY).cast_mut().cast(), BPF_RB_AVAIL_DATA.into()) };
    let end = end_of(packet);
    waiting < FULL && end <= LARGE_FRAME as u32 && u64::from(end) <= H::open(context).length()
}

/// Gives the agent a copy of the packet.
#[inline(always)]
pub(crate) fn give<H: Hook>(context: *mut c_void, packet: &Packet) -> Done {
    if end_of(packet) <= SMALL_FRAME as u32 {
        copy::<H, SMALL_FRAME>(context, packet)
    } else {
        copy::<H, LARGE_FRAME>(context, packet)
    }
}

#[inline(never)]
fn copy<H: Hook, const BYTES: usize>(context: *mut c_void, packet: &Packet) -> Done {
    // Checked as one less: the verifier of Linux 6.1 does not learn from a comparison with 0 that a number is at least 1.
    let one_less = hide(end_of(packet).wrapping_sub(1));
    if one_less >= BYTES as u32 {
        return Done::No;
    }
    let length = one_less + 1;
    let Some(mut entry) = EARLY.reserve_untyped::<[u8; BYTES]>(0) else { return Done::No };
    if !H::open(context).load(0, entry.as_mut_ptr().cast(), length) {
        entry.discard(0);
        return Done::No;
    }
    entry.submit(0);
    Done::Yes
}

/// Tells the agent where the packet with this key goes. If there is no room, the copies that it has expire.
#[inline(always)]
pub(crate) fn release(key: &FragmentKey, decision: &Decision) {
    let Some(mut entry) = EARLY.reserve_untyped::<Release>(0) else { return };
    entry.write(Release {
        key: *key,
        source: decision.source.copied(),
        destination: decision.destination.copied(),
        ifindex: decision.ifindex,
        is_nat: decision.is_nat,
        destination_mac: decision.destination_mac,
        source_mac: decision.source_mac,
        padding: [0; 4],
    });
    entry.submit(0);
}

/// Where the IP packet ends in its frame.
#[inline(always)]
fn end_of(packet: &Packet) -> u32 {
    u32::from(packet.l3) + u32::from(packet.length)
}
