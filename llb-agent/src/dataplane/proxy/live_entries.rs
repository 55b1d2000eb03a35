// SPDX-License-Identifier: Apache-2.0
//! Counters by key that exist as long as they are in use. Their number is
//! limited; all keys beyond the limit share one entry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The entries that are in use.
#[derive(Debug)]
pub(super) struct LiveEntries<K, T> {
    live: Mutex<BTreeMap<K, Weak<T>>>,
    most: usize,
    others: Arc<T>,
}

impl<K: Ord + Clone, T: Default> LiveEntries<K, T> {
    /// At most `most` entries of their own.
    pub(super) fn new(most: usize) -> Self {
        Self { live: Mutex::default(), most, others: Arc::default() }
    }

    /// The entry of `key`: a new one if it is not in use, the shared one if there are too many.
    pub(super) fn of(&self, key: K) -> Arc<T> {
        let mut live = self.lock();
        if let Some(known) = live.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        if live.len() >= self.most {
            live.retain(|_, entry| entry.strong_count() > 0);
        }
        if live.len() >= self.most {
            return Arc::clone(&self.others);
        }
        let entry = Arc::default();
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
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn keys_beyond_the_limit_share_one_entry() {
        let entries = LiveEntries::<u32, AtomicU32>::new(2);
        let (first, _second) = (entries.of(1), entries.of(2));
        assert!(Arc::ptr_eq(&entries.of(3), &entries.others));
        drop(first);
        assert!(!Arc::ptr_eq(&entries.of(3), &entries.others), "there is room again");
    }
}
