// SPDX-License-Identifier: Apache-2.0
//! Counters by key that exist as long as they are in use. Their number is
//! limited; all keys beyond the limit share one entry. Those beyond a smaller limit have
//! counters, but no series of their own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What is counted for one key.
pub(super) trait Entry: Default {
    /// The entry of a key that has no series of its own. What it has counted at its end goes to `others`.
    fn beside(others: &Arc<Self>) -> Self;
}

/// The entries that are in use.
#[derive(Debug)]
pub(super) struct LiveEntries<K, T> {
    live: Mutex<BTreeMap<K, Weak<T>>>,
    shown: usize,
    most: usize,
    others: Arc<T>,
}

impl<K: Ord + Clone, T: Entry> LiveEntries<K, T> {
    /// At most `most` entries of their own, of which the first `shown` have series.
    pub(super) fn new((shown, most): (usize, usize)) -> Self {
        Self { live: Mutex::default(), shown, most, others: Arc::default() }
    }

    /// The entry of `key`: a new one if it is not in use, the shared one if there are too many.
    pub(super) fn of(&self, key: K) -> Arc<T> {
        let mut live = self.lock();
        if let Some(known) = live.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        if live.len() >= self.shown {
            live.retain(|_, entry| entry.strong_count() > 0);
        }
        if live.len() >= self.most {
            return Arc::clone(&self.others);
        }
        let entry = Arc::new(if live.len() < self.shown { T::default() } else { T::beside(&self.others) });
        live.insert(key, Arc::downgrade(&entry));
        entry
    }

    /// The entries in use in the order of their keys, then the shared one, which has no key.
    pub(super) fn all(&self) -> Vec<(Option<K>, Arc<T>)> {
        let mut entries: Vec<_> = self
            .lock()
            .iter()
            .filter_map(|(key, entry)| Some((Some(key.clone()), entry.upgrade()?)))
            .collect();
        entries.push((None, Arc::clone(&self.others)));
        entries
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Weak<T>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Counted {
        is_hidden: bool,
    }

    impl Entry for Counted {
        fn beside(_: &Arc<Self>) -> Self {
            Self { is_hidden: true }
        }
    }

    #[test]
    fn keys_beyond_the_limit_share_one_entry() {
        let entries = LiveEntries::<u32, Counted>::new((1, 2));
        let (first, second) = (entries.of(1), entries.of(2));
        assert_eq!([first.is_hidden, second.is_hidden], [false, true]);
        assert!(Arc::ptr_eq(&entries.of(3), &entries.others));
        drop(first);
        assert!(!Arc::ptr_eq(&entries.of(3), &entries.others), "there is room again");
    }
}
