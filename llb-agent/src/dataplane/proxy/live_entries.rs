// SPDX-License-Identifier: Apache-2.0
//! Counters by key that exist as long as they are in use. Their number is
//! limited; all keys beyond the limit share one entry. Those beyond a smaller limit have
//! counters, but no series of their own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A walk over all entries takes longer the more there are. So it waits until there is one new key for this many entries.
const ENTRIES_PER_NEW_KEY: usize = 16;

/// What is counted for one key.
pub(super) trait Entry: Default {
    /// The entry of a key without series of its own. When it ends, its counts are added to `others`.
    fn beside(others: &Arc<Self>) -> Self;
}

/// The entries that are in use.
#[derive(Debug)]
pub(super) struct LiveEntries<K, T> {
    live: Mutex<Live<K, T>>,
    shown: usize,
    most: usize,
    others: Arc<T>,
}

/// Entries that were in use at the last walk, and those that came since then.
#[derive(Debug)]
struct Live<K, T> {
    by_key: BTreeMap<K, Kept<T>>,
    /// How many of them have series.
    shown: usize,
    /// Keys that were new since the last walk.
    new_keys: usize,
}

#[derive(Debug)]
struct Kept<T> {
    entry: Weak<T>,
    is_shown: bool,
}

impl<K: Ord + Clone, T: Entry> LiveEntries<K, T> {
    /// At most `most` entries of their own, of which `shown` have series.
    pub(super) fn new((shown, most): (usize, usize)) -> Self {
        let live = Live { by_key: BTreeMap::new(), shown: 0, new_keys: 0 };
        Self { live: Mutex::new(live), shown, most, others: Arc::default() }
    }

    /// The entry of `key`: a new one if the key is not in use, or the shared one if there are too many. A free place may be found
    /// only some new keys later.
    pub(super) fn of(&self, key: K) -> Arc<T> {
        let mut live = self.lock();
        if let Some(known) = live.by_key.get(&key).and_then(|kept| kept.entry.upgrade()) {
            return known;
        }
        live.forget(&key);
        live.new_keys += 1;
        let entries = live.by_key.len();
        if entries >= self.shown && live.new_keys >= entries / ENTRIES_PER_NEW_KEY {
            live.forget_unused();
        }
        if live.by_key.len() >= self.most {
            return Arc::clone(&self.others);
        }
        let is_shown = live.shown < self.shown;
        let entry = Arc::new(if is_shown { T::default() } else { T::beside(&self.others) });
        live.shown += usize::from(is_shown);
        live.by_key.insert(key, Kept { entry: Arc::downgrade(&entry), is_shown });
        entry
    }

    /// The entries in use in the order of their keys, then the shared one, which has no key.
    pub(super) fn all(&self) -> Vec<(Option<K>, Arc<T>)> {
        let mut entries: Vec<_> = self
            .lock()
            .by_key
            .iter()
            .filter_map(|(key, kept)| Some((Some(key.clone()), kept.entry.upgrade()?)))
            .collect();
        entries.push((None, Arc::clone(&self.others)));
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Live<K, T>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord, T> Live<K, T> {
    fn forget(&mut self, key: &K) {
        let was_shown = self.by_key.remove(key).is_some_and(|kept| kept.is_shown);
        self.shown -= usize::from(was_shown);
    }

    /// Walks over all entries.
    fn forget_unused(&mut self) {
        self.by_key.retain(|_, kept| kept.entry.strong_count() > 0);
        self.shown = self.by_key.values().filter(|kept| kept.is_shown).count();
        self.new_keys = 0;
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

    #[test]
    fn a_place_with_series_is_given_back() {
        let entries = LiveEntries::<u32, Counted>::new((1, 3));
        let (first, second) = (entries.of(1), entries.of(2));
        drop(first);
        let third = entries.of(3);
        assert_eq!([second.is_hidden, third.is_hidden], [true, false]);
        drop(third);
        assert!(!entries.of(3).is_hidden, "also by the key that had it");
        let (again, fourth) = (entries.of(3), entries.of(4));
        assert_eq!([again.is_hidden, fourth.is_hidden], [false, true], "but only once");
    }

    #[test]
    fn not_every_new_key_walks_over_all_entries() {
        let entries = LiveEntries::<usize, Counted>::new((100, 320));
        let mut held: Vec<_> = (0..320).map(|key| entries.of(key)).collect();
        let is_beyond = |key| Arc::ptr_eq(&entries.of(key), &entries.others);
        // Whenever the last walk was, here is one.
        entries.lock().forget_unused();
        held.pop();
        let beyond = (1000..).take_while(|key| is_beyond(*key)).count();
        assert_eq!(beyond, 320 / ENTRIES_PER_NEW_KEY - 1);
    }
}
