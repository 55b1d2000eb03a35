// SPDX-License-Identifier: Apache-2.0
//! The priorities of VRRP: 240, less ten for each rank, plus the number in `ready/S`. That number is 0, -80 or -160, more than
//! the ranks can differ by, so a box that is more ready always has a higher priority than one that is less ready.

/// The priority of rank 0. 255 is the owner of an address in VRRP, which nobody is here.
pub(super) const HIGHEST_PRIORITY: usize = 240;
/// The difference between two ranks.
pub(super) const STEP: usize = 10;

/// The content of `ready/S` of a box that serves all that it should.
pub const READY_IN_FULL: i32 = 0;
/// The same, of a box that serves, but after all boxes that are fully ready: the share's turn has not come, or a part is missing.
pub const READY_LAST: i32 = -80;
/// The same, of a box that must not have the share while any other box serves.
pub const READY_NOT: i32 = -160;

/// The number that raises a rank's priority above that of rank 0.
pub(super) fn before_all(rank: usize) -> i32 {
    (rank * STEP + STEP / 2) as i32
}

#[cfg(test)]
mod tests {
    use super::super::ranks::MAX_MEMBERS;
    use super::*;

    #[test]
    fn every_box_that_is_more_ready_is_before_every_box_that_is_less_ready() {
        let of = |rank: usize, ready: i32| (HIGHEST_PRIORITY - STEP * rank) as i32 + ready;
        let last = MAX_MEMBERS - 1;
        assert!(of(last, READY_IN_FULL) > of(0, READY_LAST));
        assert!(of(last, READY_LAST) > of(0, READY_NOT));
        assert!(of(last, READY_NOT) > 0, "priority 0 means that a box gives up");
        for rank in 0..=last {
            let moved = of(rank, before_all(rank));
            assert!(moved > of(0, READY_IN_FULL) && moved < 255);
            assert!(moved + READY_LAST < of(last, READY_IN_FULL));
        }
    }
}
