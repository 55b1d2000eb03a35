// SPDX-License-Identifier: Apache-2.0
//! Counters that only grow, of links and reasons. Pure.

use std::collections::BTreeMap;

use super::window::{Rates, Steps, Window, grown};

/// What came in on a link, in frames and bytes, or how often a reason was counted.
#[derive(Clone, Debug)]
pub(in super::super) struct Tally<const N: usize> {
    pub(in super::super) totals: [u64; N],
    /// The last sample that had it.
    sample: u64,
    window: Window<N>,
}

impl<const N: usize> Tally<N> {
    pub(super) fn is_of(&self, sample: u64) -> bool {
        self.sample == sample
    }

    pub(super) fn rates(&self, steps: &Steps, over: usize) -> Option<Rates<N>> {
        self.window.rates(steps, over)
    }
}

/// Takes in the totals of one key at the end of a step. The first totals of a key give no rate, because its growth is not known.
pub(super) fn tally<K: Ord, const N: usize>(
    tallies: &mut BTreeMap<K, Tally<N>>,
    key: K,
    totals: [u64; N],
    (steps, sample): (&Steps, u64),
) {
    let new = || Tally { totals, sample, window: Window::from_now(steps) };
    let tally = tallies.entry(key).or_insert_with(new);
    tally.window.set(steps, std::array::from_fn(|n| grown(tally.totals[n], totals[n]) as f32));
    (tally.totals, tally.sample) = (totals, sample);
}
