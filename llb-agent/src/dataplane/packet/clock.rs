// SPDX-License-Identifier: Apache-2.0
//! The clock of flow entries. Only tasks and the plane's entry points read it; all
//! else takes the time as an argument.

use llb_common::time::{Tick, tick};
use rustix::time::{ClockId, clock_gettime};

/// The time now, in the units and from the start that the programs use.
pub(super) fn now() -> Tick {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    tick(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
