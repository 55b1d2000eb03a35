// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The time, without a call of the kernel's helper for each packet: the helper takes longer than everything
//! else that is done for a packet. The kernel's count of timer interrupts is a word in memory, and shows when
//! to call the helper again.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use llb_common::time::{Tick, tick};

/// The clock of one CPU.
#[repr(C)]
pub(crate) struct Clock {
    /// When the helper was last called, in units of 2^[`INTERRUPTS_BITS`] timer interrupts.
    asked: u64,
    tick: Tick,
    padding: u32,
}

/// There are 100 to 1000 timer interrupts per second, so the helper is called every 64 to 640 ms.
const INTERRUPTS_BITS: u64 = 6;

impl Clock {
    /// The current time.
    #[inline(always)]
    pub(crate) fn tick(&mut self) -> Tick {
        // SAFETY: the helper takes no arguments. The verifier replaces the call by a load from memory.
        let asked = (unsafe { bpf_jiffies64() } >> INTERRUPTS_BITS) | NOT_ZERO;
        if self.asked != asked {
            // SAFETY: the helper takes no arguments.
            (self.asked, self.tick) = (asked, tick(unsafe { bpf_ktime_get_coarse_ns() }));
        }
        self.tick
    }
}

/// A bit that `asked` has once the helper was called. The memory of a map begins as zeros, which must never
/// look current.
const NOT_ZERO: u64 = 1 << 63;
