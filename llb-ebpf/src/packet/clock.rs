// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The time, without asking the kernel for each packet: its helper takes longer
//! than all else that is done for one. The kernel's count of timer interrupts
//! is in memory, and says when it is worth to ask again.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use llb_common::time::{Tick, tick};

/// One CPU's.
#[repr(C)]
pub(crate) struct Clock {
    /// When it was asked, in units of 2^[`INTERRUPTS_BITS`] interrupts.
    asked: u64,
    tick: Tick,
    padding: u32,
}

/// There are 100 to 1000 in a second, so it is asked every 64 to 640 ms.
const INTERRUPTS_BITS: u64 = 6;

impl Clock {
    /// The time that flow entries have.
    #[inline(always)]
    pub(crate) fn tick(&mut self) -> Tick {
        // SAFETY: a helper without arguments, which the verifier makes a load.
        let asked = (unsafe { bpf_jiffies64() } >> INTERRUPTS_BITS) | NOT_ZERO;
        if self.asked != asked {
            // SAFETY: a helper without arguments.
            (self.asked, self.tick) = (asked, tick(unsafe { bpf_ktime_get_coarse_ns() }));
        }
        self.tick
    }
}

/// A CPU's clock begins as zeros, and is not to go on so.
const NOT_ZERO: u64 = 1 << 63;
