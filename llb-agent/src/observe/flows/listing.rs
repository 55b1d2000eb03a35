// SPDX-License-Identifier: Apache-2.0
//! The first flows in the order of their ends. Only these are kept in memory.

use std::collections::BTreeMap;

use crate::model::FlowEnds;

/// Flows in order, each with what else is known of it.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    limit: usize,
    kept: BTreeMap<FlowEnds, T>,
    left_out: u64,
}

impl<T> Listing<T> {
    /// A listing that keeps at most this many flows.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, kept: BTreeMap::new(), left_out: 0 }
    }

    /// Takes in a flow. One that comes twice is kept once.
    pub(crate) fn add(&mut self, ends: FlowEnds, more: T) {
        let is_full = self.kept.len() >= self.limit;
        if is_full && self.kept.last_key_value().is_none_or(|(last, _)| ends > *last) {
            self.left_out += 1;
        } else if self.kept.insert(ends, more).is_none() && is_full {
            self.kept.pop_last();
            self.left_out += 1;
        }
    }

    /// The flows that are kept, in order, and how many more there are.
    pub(crate) fn into_parts(self) -> (Vec<(FlowEnds, T)>, u64) {
        (self.kept.into_iter().collect(), self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Frontend;

    #[test]
    fn the_first_flows_are_kept_in_order_whatever_order_they_come_in() {
        let ends = |port: u16| FlowEnds {
            frontend: Frontend::named("192.0.2.100:80/TCP").unwrap(),
            client: ([198, 51, 100, 10], port).into(),
            backend: ([192, 0, 2, 31], 30080).into(),
        };
        for order in [[5, 1, 4, 2, 3], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]] {
            let mut listing = Listing::new(2);
            order.iter().for_each(|port| listing.add(ends(*port), *port));
            let (kept, more) = listing.into_parts();
            assert_eq!(kept, [(ends(1), 1), (ends(2), 2)], "{order:?}");
            assert_eq!(more, 3, "{order:?}");
        }
        let mut twice = Listing::new(2);
        [1, 1, 2].iter().for_each(|port| twice.add(ends(*port), ()));
        let (kept, more) = twice.into_parts();
        assert_eq!((kept.len(), more), (2, 0));
    }
}
