// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Time as flow entries keep it: in few bits that are cheap to get in the kernel. It counts from the start of
//! the machine.

/// `CLOCK_MONOTONIC_COARSE` in units of 2^30 ns (1.07 s). In the programs it may be up to 0.64 s behind.
pub type Tick = u32;

/// Binary logarithm of the nanoseconds in a [`Tick`]: conversion is a shift, not a division.
const TICK_BITS: u32 = 30;

/// The tick of a time in nanoseconds.
#[inline(always)]
pub const fn tick(nanoseconds: u64) -> Tick {
    (nanoseconds >> TICK_BITS) as Tick
}

/// Seconds from `then` to `now`, rounded down, off by less than two seconds. 0 if `then` is later than `now`.
#[inline(always)]
pub const fn elapsed_secs(then: Tick, now: Tick) -> u32 {
    let ticks = now.saturating_sub(then) as u64;
    ((ticks << TICK_BITS) / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_nearly_seconds() {
        assert_eq!(tick(0), 0);
        assert_eq!(elapsed_secs(tick(5_000_000_000), tick(125_000_000_000)), 120);
        assert_eq!(elapsed_secs(9, 3), 0);
    }
}
