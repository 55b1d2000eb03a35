//! Frames and bytes of the link that the object is attached to.
//!
//! | map | key | value | written by | read by |
//! |---|---|---|---|---|
//! | `LINK_COUNTERS` | 0 | `LinkCounters`, per CPU | both programs | the agent |

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use llb_common::counters::{LINK_COUNTERS_CAPACITY, LinkCounters};

/// A static of this name is the map of this name (`LINK_COUNTERS_MAP`).
#[btf_map]
static LINK_COUNTERS: PerCpuArray<LinkCounters, LINK_COUNTERS_CAPACITY> = PerCpuArray::new();

/// Counts one frame of `length` bytes.
#[inline(always)]
pub(crate) fn count_frame(length: u64) {
    let Some(counters) = LINK_COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: the kernel gave a pointer to this CPU's own value, valid until
    // the program returns. A program is not interrupted by another run of
    // itself on the same CPU, except across hooks, where a count may be lost.
    unsafe { *counters = (*counters).plus(LinkCounters { packets: 1, bytes: length }) };
}
