// SPDX-License-Identifier: Apache-2.0
//! The traffic of all frontends, or of all backends, by key, up to a limit. Pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::flow::Flow;
use super::window::{Steps, Window};
use crate::model::RATED;

/// The flows by key.
#[derive(Debug)]
pub(super) struct Flows<K> {
    flows: BTreeMap<K, Flow>,
    /// How many of them have series of their own.
    shown: usize,
    most_shown: usize,
    most: usize,
}

impl<K: Ord> Flows<K> {
    pub(super) fn new(most_shown: usize, most: usize) -> Self {
        Self { flows: BTreeMap::new(), shown: 0, most_shown, most }
    }

    /// The flow with this key. It is a new one if the key is new and there is room.
    pub(super) fn entry(&mut self, key: K, window: impl Fn() -> Window<RATED>) -> Option<&mut Flow> {
        let count = self.flows.len();
        match self.flows.entry(key) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(_) if count >= self.most => None,
            Entry::Vacant(place) => {
                let is_shown = self.shown < self.most_shown;
                self.shown += usize::from(is_shown);
                Some(place.insert(Flow::new(window(), is_shown)))
            }
        }
    }

    /// Ends a step. Flows that are not in its sample are forgotten, so others may have their series.
    pub(super) fn end_step(&mut self, steps: &Steps, sample: u64) {
        self.flows.retain(|_, flow| flow.is_of(sample));
        self.flows.values_mut().for_each(|flow| flow.end_step(steps));
        self.shown = self.shown().count();
    }

    pub(super) fn get(&self, key: &K) -> Option<&Flow> {
        self.flows.get(key)
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = (&K, &Flow)> {
        self.flows.iter()
    }

    /// Those that have series of their own.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&K, &Flow)> {
        self.flows.iter().filter(|(_, flow)| flow.is_shown)
    }
}
