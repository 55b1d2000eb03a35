// SPDX-License-Identifier: Apache-2.0
//! The last changes, and since when each backend is as it is. Pure; the time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};

use super::differences::{Difference, Health, backends, differences, health};
use super::rows::{Change, Changes};
use crate::model::{Backend, Frontend};
use crate::reconcile::Report;

/// The most changes that are kept. An older one goes when a new one comes.
pub const CHANGES: usize = 4_096;

/// The most of them that are about one namespace, so that its Services can't push out those of all others.
const OF_NAMESPACE: usize = CHANGES / 4;

/// The most backends of frontends whose state has a time. Each takes about 150 bytes. Further ones have none.
const TIMED: usize = 100_000;

/// The same change within this time is counted, not kept again.
const AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// Among so many of the last changes the same one is looked for.
const LOOKED_THROUGH: usize = 256;

/// The history that the task writes and the admin endpoint reads. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedHistory {
    history: Arc<Mutex<History>>,
    since: Arc<ArcSwap<Since>>,
}

impl SharedHistory {
    /// An empty history, which begins now.
    pub(super) fn starting(now: Timestamp) -> Self {
        let history = History { started: now, ..History::default() };
        Self { history: Arc::new(Mutex::new(history)), since: Arc::default() }
    }

    /// The changes after number `after`.
    pub(crate) fn after(&self, after: u64) -> Changes {
        self.history().after(after)
    }

    /// The number of the last change.
    pub(super) fn sequence(&self) -> u64 {
        self.history().sequence
    }

    /// Since when each backend has its state.
    pub(super) fn since(&self) -> Arc<Since> {
        self.since.load_full()
    }

    /// Takes in a new report. `age` is the age of an instant.
    pub(super) fn follow(
        &self,
        before: &Report,
        after: &Report,
        now: Timestamp,
        age: impl Fn(std::time::Instant) -> SignedDuration,
    ) {
        let found = match (before.has_snapshot, after.has_snapshot) {
            (true, _) => differences(before, after),
            (false, true) => {
                let count = after.observed.frontends.len();
                let what = format!("has its first snapshot; it has {count} frontends");
                vec![("this agent".to_owned(), what)]
            }
            (false, false) => Vec::new(),
        };
        if shows_other_backends(before, after) {
            let since = self.since.load().after(after, now, age);
            self.since.store(Arc::new(since));
        }
        let mut history = self.history();
        found.into_iter().for_each(|difference| history.push(difference, now));
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // A panic leaves a history that is whole: each change is one push.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shows_other_backends(before: &Report, after: &Report) -> bool {
    before.observed.frontends != after.observed.frontends
        || before.failed_backends != after.failed_backends
        || (!Arc::ptr_eq(&before.desired, &after.desired)
            && before.desired.unhealthy != after.desired.unhealthy)
}

/// Since when each backend of a frontend has its state.
#[derive(Debug, Default)]
pub(crate) struct Since(BTreeMap<(Frontend, Backend), (&'static str, Timestamp)>);

impl Since {
    /// Since when a backend is in this state.
    pub(super) fn of(&self, frontend: Frontend, backend: Backend, state: &str) -> Option<Timestamp> {
        let (known, since) = self.0.get(&(frontend, backend))?;
        (*known == state).then_some(*since)
    }

    fn after(
        &self,
        report: &Report,
        now: Timestamp,
        age: impl Fn(std::time::Instant) -> SignedDuration,
    ) -> Self {
        let since = report.observed.frontends.keys().flat_map(|frontend| {
            let age = &age;
            backends(report, frontend).into_iter().map(move |backend| {
                let (state, key) = (health(report, frontend, &backend), (*frontend, backend));
                let since = match (self.0.get(&key), state) {
                    (Some((known, since)), state) if *known == state.name() => *since,
                    (_, Health::Dead(failure)) => now.checked_sub(age(failure.since)).unwrap_or(now),
                    _ => now,
                };
                (key, (state.name(), since))
            })
        });
        Self(since.take(TIMED).collect())
    }
}

/// What has changed.
#[derive(Debug, Default)]
struct History {
    started: Timestamp,
    changes: VecDeque<Change>,
    of_namespaces: BTreeMap<String, usize>,
    sequence: u64,
    /// The highest number that is no longer kept.
    dropped: u64,
}

impl History {
    fn after(&self, after: u64) -> Changes {
        let first = self.changes.partition_point(|change| change.sequence <= after);
        let changes = self.changes.range(first..).cloned().collect();
        Changes { sequence: self.sequence, started: self.started, lost: after < self.dropped, changes }
    }

    fn push(&mut self, (object, what): Difference, now: Timestamp) {
        let same = |change: &Change| change.object == object && change.what == what;
        let is_recent = |change: &Change| now.duration_since(change.time) < AGAIN;
        let looked_through = self.changes.len().saturating_sub(LOOKED_THROUGH)..self.changes.len();
        let again = looked_through
            .rev()
            .find(|&index| self.changes.get(index).is_some_and(|change| same(change) && is_recent(change)));
        let times = again.and_then(|index| self.remove(index)).map_or(0, |change| change.times);
        if again.is_none() {
            self.make_room(&object);
        }
        self.sequence += 1;
        if let Some(namespace) = namespace(&object) {
            *self.of_namespaces.entry(namespace.to_owned()).or_default() += 1;
        }
        let times = times.saturating_add(1);
        self.changes.push_back(Change { sequence: self.sequence, time: now, object, what, times });
    }

    /// Drops the oldest change: of the namespace, if it has its share, else of all.
    fn make_room(&mut self, object: &str) {
        let of_namespace = namespace(object).and_then(|namespace| self.of_namespaces.get(namespace));
        let index = if of_namespace.is_some_and(|count| *count >= OF_NAMESPACE) {
            self.changes.iter().position(|change| namespace(&change.object) == namespace(object))
        } else {
            (self.changes.len() >= CHANGES).then_some(0)
        };
        if let Some(dropped) = index.and_then(|index| self.remove(index)) {
            self.dropped = self.dropped.max(dropped.sequence);
        }
    }

    fn remove(&mut self, index: usize) -> Option<Change> {
        let change = self.changes.remove(index)?;
        if let Some(name) = namespace(&change.object)
            && let Some(count) = self.of_namespaces.get_mut(name)
        {
            *count -= 1;
            if *count == 0 {
                self.of_namespaces.remove(name);
            }
        }
        Some(change)
    }
}

/// The namespace of the object, if it has one.
fn namespace(object: &str) -> Option<&str> {
    Some(object.split_once(' ')?.1.split_once('/')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn push(history: &mut History, object: &str, what: &str, second: i64) {
        history.push((object.to_owned(), what.to_owned()), at(second));
    }

    #[test]
    fn changes_after_a_number_are_told_and_lost_ones_are_said() {
        let mut history = History::default();
        for number in 0..CHANGES + 2 {
            push(&mut history, "link eth0", &number.to_string(), 0);
        }
        assert_eq!(history.sequence, CHANGES as u64 + 2);
        let all = history.after(0);
        assert_eq!((all.lost, all.changes.len(), all.changes[0].sequence), (true, CHANGES, 3));
        let last = history.after(CHANGES as u64 + 1);
        assert_eq!((last.lost, last.changes.len()), (false, 1));
        assert!(history.after(u64::MAX).changes.is_empty());
    }

    #[test]
    fn what_repeats_within_a_minute_is_counted() {
        let mut history = History::default();
        for second in [0, 30, 59] {
            push(&mut history, "Service a/b", "is dead", second);
            push(&mut history, "Service a/b", "answers again", second);
        }
        let told: Vec<(u64, u32)> =
            history.after(0).changes.iter().map(|change| (change.sequence, change.times)).collect();
        assert_eq!(told, [(5, 3), (6, 3)]);
        push(&mut history, "Service a/b", "is dead", 200);
        assert_eq!(history.after(6).changes[0].times, 1);
    }

    #[test]
    fn one_namespace_does_not_push_out_the_changes_of_others() {
        let mut history = History::default();
        push(&mut history, "Service quiet/web", "published", 0);
        for number in 0..2 * CHANGES {
            push(&mut history, "Service loud/web", &number.to_string(), 0);
        }
        let changes = history.after(0).changes;
        assert_eq!((changes.len(), changes[0].object.as_str()), (OF_NAMESPACE + 1, "Service quiet/web"));
    }
}
