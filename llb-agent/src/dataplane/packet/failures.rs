// SPDX-License-Identifier: Apache-2.0
//! Which backends of the packet plane are dead, since when, and how often each one failed. Pure: what the
//! programs and the kernel say is looked at once a second (`upkeep.rs`).

use std::collections::BTreeMap;
use std::time::Instant;

use llb_common::backend::{BackendId, FailureKind, FailureMark};

use crate::model::{BackendFailure, FailureReason};

/// So often in a row a backend must not answer a connection to be dead. Once may be a packet that was lost.
const UNANSWERED: u32 = 2;

/// What a look found out about a backend of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Why no packet can be sent to it.
    pub(super) no_way: Option<FailureReason>,
    /// What the programs noted: a new connection failed, and none was answered since.
    pub(super) mark: Option<FailureMark>,
}

/// What is known of each backend.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<BackendId, Known>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    found: Found,
    failure: Option<BackendFailure>,
    /// How often in a row it was seen that connections were not answered.
    unanswered: u32,
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
        let new_mark = found.mark.filter(|_| found.mark != self.found.mark).map(FailureMark::kind);
        let failed_again = new_mark.is_some_and(|kind| kind != FailureKind::Tested);
        let count = self.count + u64::from(lost_its_way) + u64::from(failed_again);
        let unanswered = match found.mark {
            Some(_) => self.unanswered.saturating_add(u32::from(new_mark == Some(FailureKind::Unanswered))),
            None => 0,
        };
        let why = found.no_way.or_else(|| self.why_by_mark(found.mark?.kind(), unanswered));
        let failure = why.map(|why| {
            let since = self.failure.map_or(now, |failure| failure.since);
            BackendFailure { why, since }
        });
        Self { found, failure, unanswered, count }
    }

    /// Why it is dead, as far as the programs' mark tells.
    fn why_by_mark(self, kind: FailureKind, unanswered: u32) -> Option<FailureReason> {
        match kind {
            FailureKind::Refused => Some(FailureReason::Refused),
            FailureKind::Unanswered if self.failure.is_some() || unanswered >= UNANSWERED => {
                Some(FailureReason::TimedOut)
            }
            FailureKind::Unanswered => None,
            // A connection tries it, and has no answer yet.
            FailureKind::Tested => self.failure.map(|failure| failure.why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    const ID: BackendId = BackendId::new(7, 1);

    fn mark(kind: FailureKind, tick: u32) -> Found {
        Found { mark: Some(FailureMark::new(kind, tick)), no_way: None }
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
        use FailureKind::{Refused, Tested, Unanswered};
        let [refused, timed_out] = [FailureReason::Refused, FailureReason::TimedOut];
        assert_eq!(look(Found::default()), (false, None, 0));
        assert_eq!(look(mark(Refused, 5)), (true, Some((refused, 2)), 1));
        assert_eq!(look(mark(Refused, 5)), (false, Some((refused, 2)), 1), "the same failure");
        assert_eq!(look(mark(Tested, 15)), (false, Some((refused, 2)), 1), "a test is none");
        assert_eq!(look(mark(Unanswered, 16)), (true, Some((timed_out, 2)), 2));
        assert_eq!(look(Found::default()), (true, None, 2), "it answers");
        assert_eq!(look(mark(Refused, 30)), (true, Some((refused, 7)), 3));
    }

    #[test]
    fn one_connection_without_an_answer_makes_no_dead_backend() {
        use FailureKind::{Tested, Unanswered};
        let (mut failures, now) = (Failures::default(), clock::now_std());
        let mut dead = |found: Found| {
            failures.follow([(ID, found)], now);
            failures.of(ID).is_some()
        };
        assert!(!dead(mark(Unanswered, 5)));
        assert!(!dead(mark(Unanswered, 5)), "the same connection");
        assert!(!dead(mark(Tested, 15)));
        assert!(!dead(Found::default()), "it answers");
        assert!(!dead(mark(Unanswered, 30)));
        assert!(!dead(mark(Tested, 40)));
        assert!(dead(mark(Unanswered, 41)));
        assert!(dead(mark(Tested, 51)));
        assert_eq!(failures.of(ID).unwrap().why, FailureReason::TimedOut);
        assert_eq!(failures.count(ID), 3);
    }

    #[test]
    fn a_backend_without_a_way_is_dead_until_there_is_one() {
        let (mut failures, now) = (Failures::default(), clock::now_std());
        let lost = Found { no_way: Some(FailureReason::NoNeighbour), mark: None };
        assert!(failures.follow([(ID, lost)], now));
        assert!(!failures.follow([(ID, lost)], now));
        assert_eq!(failures.of(ID).unwrap().why, FailureReason::NoNeighbour);
        assert!(failures.follow([(ID, Found::default())], now));
        assert_eq!((failures.of(ID), failures.count(ID)), (None, 1));
    }

    #[test]
    fn a_backend_that_no_rule_has_is_forgotten() {
        let (mut failures, now) = (Failures::default(), clock::now_std());
        failures.follow([(ID, mark(FailureKind::Refused, 5))], now);
        assert!(!failures.follow([], now));
        assert_eq!((failures.of(ID), failures.count(ID)), (None, 0));
    }
}
