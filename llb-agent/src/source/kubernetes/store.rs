// SPDX-License-Identifier: Apache-2.0
//! The objects of one watch, converted. It knows how much each change matters, so that what
//! others serve wakes nobody. Not: how objects are watched (`watches.rs`).

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::Resource;
use kube::runtime::watcher::Event;

/// How much a change matters. The greater one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Nothing that llb looks at.
    #[default]
    Nothing,
    /// What others serve: an address that llb must not give away. It is seen by the next round.
    Others,
    /// What llb serves. It starts a round.
    Ours,
}

/// `namespace/name`.
type Key = String;

/// What a change of an object from the first to the second value means. They differ.
type Weigh<V> = Box<dyn Fn(Option<&V>, Option<&V>) -> Change + Send + Sync>;

/// The converted objects of one watch.
pub(super) struct Store<V> {
    weigh: Weigh<V>,
    state: Mutex<State<V>>,
}

struct State<V> {
    objects: HashMap<Key, V>,
    /// The list that is arriving. Until it is complete, the old objects count.
    listed: HashMap<Key, V>,
    /// The first list has arrived.
    complete: bool,
    change: Change,
}

impl<V: Clone + PartialEq> Store<V> {
    pub(super) fn new(weigh: impl Fn(Option<&V>, Option<&V>) -> Change + Send + Sync + 'static) -> Self {
        let (objects, listed) = (HashMap::new(), HashMap::new());
        let state = State { objects, listed, complete: false, change: Change::Nothing };
        Self { weigh: Box::new(weigh), state: Mutex::new(state) }
    }

    /// Carries out what the watch says, and tells how much it matters.
    pub(super) fn apply<K>(&self, event: &Event<K>, convert: impl Fn(&K) -> V) -> Change
    where
        K: Resource<DynamicType = ()>,
    {
        // Outside the lock: a large object takes its time.
        let value = match event {
            Event::Apply(object) | Event::InitApply(object) => Some((key_of(object), convert(object))),
            Event::Delete(_) | Event::Init | Event::InitDone => None,
        };
        let mut state = self.lock();
        let change = match (event, value) {
            (Event::Apply(_), Some((key, value))) => {
                let before = state.objects.get(&key);
                let change = self.weighed(before, Some(&value));
                if before != Some(&value) {
                    state.objects.insert(key, value);
                }
                change
            }
            (Event::InitApply(_), Some((key, value))) => {
                state.listed.insert(key, value);
                Change::Nothing
            }
            (Event::Delete(object), _) => {
                let before = state.objects.remove(&key_of(object));
                self.weighed(before.as_ref(), None)
            }
            (Event::InitDone, _) => self.replace(&mut state),
            (Event::Init, _) => {
                state.listed = HashMap::new();
                Change::Nothing
            }
            (Event::Apply(_) | Event::InitApply(_), None) => Change::Nothing,
        };
        state.change = state.change.max(change);
        change
    }

    /// The list is complete. Objects that are not in it are gone.
    fn replace(&self, state: &mut State<V>) -> Change {
        let listed = mem::take(&mut state.listed);
        let mut before = mem::replace(&mut state.objects, listed);
        let mut change = if state.complete { Change::Nothing } else { Change::Ours };
        state.complete = true;
        for (key, value) in &mut state.objects {
            let old = before.remove(key);
            change = change.max(self.weighed(old.as_ref(), Some(value)));
            // The same memory as before makes it cheap to compare snapshots.
            if let Some(old) = old.filter(|old| old == value) {
                *value = old;
            }
        }
        before.values().fold(change, |change, gone| change.max(self.weighed(Some(gone), None)))
    }

    fn weighed(&self, before: Option<&V>, now: Option<&V>) -> Change {
        if before == now { Change::Nothing } else { (self.weigh)(before, now) }
    }

    /// Whether the first list has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.lock().complete
    }

    /// The greatest change since this was called last.
    pub(super) fn take_change(&self) -> Change {
        mem::take(&mut self.lock().change)
    }

    /// All objects.
    pub(super) fn all(&self) -> Vec<V> {
        self.lock().objects.values().cloned().collect()
    }

    /// What `ask` finds out about the object.
    pub(super) fn is(&self, namespace: &str, name: &str, ask: impl Fn(&V) -> bool) -> bool {
        self.lock().objects.get(&key(namespace, name)).is_some_and(ask)
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(object: &impl Resource) -> Key {
    let meta = object.meta();
    key(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

fn key(namespace: &str, name: &str) -> Key {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::api::ObjectMeta;

    use super::*;

    /// Objects are their generation. Even ones are ours.
    fn store() -> Store<i64> {
        Store::new(|before, now| {
            let is_ours = |value: Option<&i64>| value.is_some_and(|value| value % 2 == 0);
            if is_ours(before) || is_ours(now) { Change::Ours } else { Change::Others }
        })
    }

    fn object(name: &str, generation: i64) -> Node {
        let metadata =
            ObjectMeta { name: Some(name.to_owned()), generation: Some(generation), ..ObjectMeta::default() };
        Node { metadata, ..Node::default() }
    }

    fn apply(store: &Store<i64>, event: Event<Node>) -> Change {
        store.apply(&event, |object| object.metadata.generation.unwrap_or_default())
    }

    fn list(store: &Store<i64>, objects: &[(&str, i64)]) -> Change {
        apply(store, Event::Init);
        for (name, generation) in objects {
            assert_eq!(apply(store, Event::InitApply(object(name, *generation))), Change::Nothing);
        }
        apply(store, Event::InitDone)
    }

    fn sorted(store: &Store<i64>) -> Vec<i64> {
        let mut all = store.all();
        all.sort_unstable();
        all
    }

    #[test]
    fn what_stays_the_same_or_belongs_to_others_is_no_change_of_ours() {
        let store = store();
        assert!(!store.is_complete());
        assert_eq!(list(&store, &[]), Change::Ours, "the first list, even if it is empty");
        assert!(store.is_complete());
        for (event, expected) in [
            (Event::Apply(object("a", 1)), Change::Others),
            (Event::Apply(object("a", 1)), Change::Nothing),
            (Event::Apply(object("a", 2)), Change::Ours),
            (Event::Apply(object("a", 2)), Change::Nothing),
            (Event::Apply(object("a", 3)), Change::Ours),
            (Event::Delete(object("a", 3)), Change::Others),
            (Event::Delete(object("a", 3)), Change::Nothing),
        ] {
            assert_eq!(apply(&store, event), expected);
        }
        assert_eq!(store.take_change(), Change::Ours);
        assert_eq!(store.take_change(), Change::Nothing);
    }

    #[test]
    fn a_new_list_counts_when_it_is_complete() {
        let store = store();
        list(&store, &[("a", 1), ("b", 2)]);
        apply(&store, Event::Init);
        apply(&store, Event::InitApply(object("c", 4)));
        assert_eq!(sorted(&store), [1, 2]);
        assert_eq!(list(&store, &[("b", 2), ("a", 1)]), Change::Nothing);
        assert_eq!(list(&store, &[("b", 2), ("a", 3)]), Change::Others);
        assert_eq!(list(&store, &[("a", 3)]), Change::Ours);
        assert_eq!(sorted(&store), [3]);
        assert!(store.is("", "a", |value| *value == 3) && !store.is("", "b", |_| true));
    }
}
