// SPDX-License-Identifier: Apache-2.0
//! Which backends of the packet plane are dead, since when, and how often each one failed. Pure: what the
//! programs, the kernel and the tester (`tester.rs`) say is looked at once a second (`upkeep.rs`).

use std::collections::BTreeMap;
use std::time::Instant;

use llb_common::backend::{BackendId, FailureKind, FailureMark};

use crate::model::{BackendFailure, FailureReason};

/// What a look found out about a backend of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Why no packet can be sent to it.
    pub(super) no_way: Option<FailureReason>,
    /// What is noted: a new connection failed, and none was answered since.
    pub(super) mark: Option<FailureMark>,
    /// Why it is dead, by the agent's tests.
    pub(super) dead: Option<FailureReason>,
}

/// What is known of each backend.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<BackendId, Known>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    found: Found,
    failure: Option<BackendFailure>,
    count: u64,
}

impl Failures {
    /// Takes in a look at all backends; those that it leaves out are forgotten. True if a backend has
    /// failed, fails for another reason, or answers again.
    pub(super) fn follow(
        &mut self,
        found: impl IntoIterator<Item = (BackendId, Found)>,
        now: Instant,
    ) -> bool {
        let before = std::mem::take(&mut self.0);
        let mut has_news = false;
        for (id, found) in found {
            let old = before.get(&id).copied().unwrap_or_default();
            let new = old.then(found, now);
            has_news |= old.failure.map(|failure| failure.why) != new.failure.map(|failure| failure.why);
            if new != Known::default() {
                self.0.insert(id, new);
            }
        }
        has_news
    }

    /// The failure of a backend; `None` if it is well.
    pub(super) fn of(&self, id: BackendId) -> Option<BackendFailure> {
        self.0.get(&id)?.failure
    }

    /// How often a backend was seen to fail.
    pub(super) fn count(&self, id: BackendId) -> u64 {
        self.0.get(&id).map_or(0, |known| known.count)
    }
}

impl Known {
    fn then(self, found: Found, now: Instant) -> Self {
        let lost_its_way = found.no_way.is_some() && self.found.no_way.is_none();
        let died = found.dead.is_some() && self.found.dead.is_none();
        let new_mark = found.mark.filter(|_| found.mark != self.found.mark).map(FailureMark::kind);
        // The agent's own mark tells of no connection.
        let failed_again = new_mark.is_some_and(|kind| kind != FailureKind::Dead);
        let count = self.count + u64::from(lost_its_way || died || failed_again);
        let failure = found.no_way.or(found.dead).map(|why| {
            let since = self.failure.map_or(now, |failure| failure.since);
            BackendFailure { why, since }
        });
        Self { found, failure, count }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    const ID: BackendId = BackendId::new(7, 1);

    fn mark(kind: FailureKind, tick: u32) -> Found {
        Found { mark: Some(FailureMark::new(kind, tick)), ..Found::default() }
    }

    fn dead(why: FailureReason, tick: u32) -> Found {
        Found { dead: Some(why), ..mark(FailureKind::Dead, tick) }
    }

    #[test]
    fn a_backend_is_dead_until_it_answers_and_each_failure_counts_once() {
        let (mut failures, start) = (Failures::default(), clock::now_std());
        let mut at = start;
        let mut look = |found: Found| {
            at += Duration::from_secs(1);
            let news = failures.follow([(ID, found)], at);
            (
                news,
                failures.of(ID).map(|failure| (failure.why, (failure.since - start).as_secs())),
                failures.count(ID),
            )
        };
        use FailureKind::Refused;
        let [refused, timed_out] = [FailureReason::Refused, FailureReason::TimedOut];
        assert_eq!(look(Found::default()), (false, None, 0));
        assert_eq!(look(mark(Refused, 5)), (false, None, 1), "it is tested");
        assert_eq!(look(mark(Refused, 5)), (false, None, 1), "the same failure");
        assert_eq!(look(dead(refused, 7)), (true, Some((refused, 4)), 2));
        assert_eq!(look(dead(refused, 10)), (false, Some((refused, 4)), 2), "a mark that is renewed");
        assert_eq!(look(dead(timed_out, 10)), (true, Some((timed_out, 4)), 2));
        assert_eq!(look(Found::default()), (true, None, 2), "it answers");
        assert_eq!(look(dead(refused, 30)), (true, Some((refused, 8)), 3), "its first failure was not seen");
    }

    #[test]
    fn connections_without_an_answer_make_no_dead_backend() {
        let (mut failures, now) = (Failures::default(), clock::now_std());
        for tick in 5..50 {
            let kind = if tick % 2 == 0 { FailureKind::Unanswered } else { FailureKind::RefusedAgain };
            assert!(!failures.follow([(ID, mark(kind, tick))], now));
            assert_eq!(failures.of(ID), None);
        }
        assert_eq!(failures.count(ID), 45);
    }

    #[test]
    fn a_backend_without_a_way_is_dead_until_there_is_one() {
        let (mut failures, now) = (Failures::default(), clock::now_std());
        let lost = Found { no_way: Some(FailureReason::NoNeighbour), ..Found::default() };
        assert!(failures.follow([(ID, lost)], now));
        assert!(!failures.follow([(ID, lost)], now));
        assert_eq!(failures.of(ID).unwrap().why, FailureReason::NoNeighbour);
        assert!(failures.follow([(ID, Found::default())], now));
        assert_eq!((failures.of(ID), failures.count(ID)), (None, 1));
    }

    #[test]
    fn a_backend_that_no_rule_has_is_forgotten() {
        let (mut failures, now) = (Failures::default(), clock::now_std());
        failures.follow([(ID, dead(FailureReason::Refused, 5))], now);
        assert!(!failures.follow([], now));
        assert_eq!((failures.of(ID), failures.count(ID)), (None, 0));
    }
}
