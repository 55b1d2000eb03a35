// SPDX-License-Identifier: Apache-2.0
//! Leaves out what is over in the same moment: a new Service has no endpoints until its
//! EndpointSlice arrives, and a backend is there a moment before its neighbour is known. Pure; the
//! clock is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What lasts for this time is told.
pub(super) const SETTLE: Duration = Duration::from_secs(3);

/// What is there, and since when.
#[derive(Debug)]
pub(super) struct Lasting<T> {
    since: BTreeMap<T, Instant>,
    /// When the next of them has lasted.
    next: Option<Instant>,
}

impl<T> Default for Lasting<T> {
    fn default() -> Self {
        Self { since: BTreeMap::new(), next: None }
    }
}

impl<T: Clone + Ord> Lasting<T> {
    /// Those of `current`, which is all that is there at `now`, that have lasted.
    pub(super) fn of<'a>(&mut self, current: impl IntoIterator<Item = &'a T>, now: Instant) -> Vec<&'a T>
    where
        T: 'a,
    {
        let mut before = std::mem::take(&mut self.since);
        let (mut settled, mut next) = (Vec::new(), None::<Instant>);
        for item in current {
            let (known, since) = before.remove_entry(item).unwrap_or_else(|| {
                let since = self.since.get(item).copied().unwrap_or(now);
                (item.clone(), since)
            });
            if now.saturating_duration_since(since) >= SETTLE {
                settled.push(item);
            } else {
                let due = since + SETTLE;
                next = Some(next.map_or(due, |next| next.min(due)));
            }
            self.since.insert(known, since);
        }
        self.next = next;
        settled
    }

    /// When the next of them will have lasted.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn what_is_over_in_the_same_moment_is_left_out() {
        let (mut lasting, start) = (Lasting::default(), clock::now_std());
        let half = SETTLE / 2;
        assert!(lasting.of(&["a", "b"], start).is_empty());
        assert_eq!(lasting.next(), Some(start + SETTLE));
        assert!(lasting.of(&["b", "b"], start + half).is_empty());
        assert_eq!(lasting.of(&["a", "b"], start + SETTLE), [&"b"]);
        assert_eq!(lasting.next(), Some(start + 2 * SETTLE), "a was away meanwhile");
        assert_eq!(lasting.of(&["a", "b"], start + 2 * SETTLE), [&"a", &"b"]);
        assert_eq!(lasting.next(), None);
    }
}
