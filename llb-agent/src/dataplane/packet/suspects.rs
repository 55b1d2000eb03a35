// SPDX-License-Identifier: Apache-2.0
//! Decides which backends are tested, and what follows from a test. Pure: `tester.rs` reads the marks, makes the
//! tests and writes.
//!
//! ```text
//!                    test of [`FIRST_TRIES`]     all fail, and no client was answered meanwhile
//!   a client's  ---> suspected ----------------------------------------------------> dead: mark renewed,
//!   connection       |  ^  |                                                           |   tested each second
//!   failed           |  '--'  a client was answered, and then another one was not      |
//!                    '------> well: mark removed <-------------------------------------'
//!                              it answers a test, or a client
//! ```
//!
//! One client can't take a backend from others: what its connections find only starts a test. A backend that
//! answers some connections and not others, because it has too many, is not dead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use llb_common::backend::{BackendId, FailureKind, FailureMark};
use llb_common::time::{Tick, elapsed_secs};
use tokio::time::Instant;

use crate::model::FailureReason;

/// Backends that are tested at the same time. All others wait for their turn, and get connections meanwhile,
/// unless they are dead already.
const MOST_AT_ONCE: usize = 128;
/// So many connections in a row must fail before a backend is dead.
const FIRST_TRIES: u32 = 3;
/// How long after a test a dead backend is tested again, with one connection.
const AGAIN: Duration = Duration::from_secs(1);
/// The mark of a dead backend is renewed at this age. It counts for
/// [`FAILING_SECS`](llb_common::backend::FAILING_SECS).
const RENEWED_AFTER_SECS: u32 = 3;

/// The backends that have a mark.
#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<BackendId, Suspect>);

#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// The mark that it had when the test began that runs now.
    tested_by: Option<FailureMark>,
    /// Why it is dead.
    dead: Option<FailureReason>,
    /// It is not tested before.
    due: Instant,
}

/// What is to be done after a look at the marks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Make up to so many connections, until one is answered.
    Test(BackendId, u32),
    /// Renew the mark that says that it is dead, if it is still there.
    Renew(BackendId),
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A connection was answered.
    Answered,
    /// All connections failed, the last one in this way.
    Failed(FailureReason),
    /// This machine could not make the connections.
    NotMade,
}

/// How many tests ended in each way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TestCounts([u64; 3]);

impl TestCounts {
    /// The names of the ways.
    const RESULTS: [&str; 3] = ["answered", "failed", "not_made"];

    pub(super) fn count(&mut self, outcome: Outcome) {
        let place = match outcome {
            Outcome::Answered => 0,
            Outcome::Failed(_) => 1,
            Outcome::NotMade => 2,
        };
        self.0[place] += 1;
    }

    /// Each name with its count.
    pub(super) fn all(self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::RESULTS.into_iter().zip(self.0)
    }
}

/// What follows for the mark.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sentence {
    /// Mark it as dead, if it still has a mark.
    Dead,
    /// Remove its mark.
    Well,
    /// Leave its mark as it is.
    Open,
}

impl Suspects {
    /// Takes in all marks of backends that can be tested.
    pub(super) fn look(
        &mut self,
        marks: &HashMap<BackendId, FailureMark>,
        now: Tick,
        time: Instant,
    ) -> Vec<Order> {
        self.0.retain(|id, suspect| marks.contains_key(id) || suspect.tested_by.is_some());
        for (id, suspect) in &mut self.0 {
            // It has answered a client.
            if marks.get(id).is_none_or(|mark| mark.kind() != FailureKind::Dead) {
                suspect.dead = None;
            }
        }
        let mut orders = Vec::new();
        let mut due = BTreeSet::new();
        for (&id, mark) in marks {
            let new = Suspect { tested_by: None, dead: None, due: time };
            let suspect = self.0.entry(id).or_insert(new);
            if suspect.dead.is_some() && elapsed_secs(mark.tick(), now) >= RENEWED_AFTER_SECS {
                orders.push(Order::Renew(id));
            }
            if suspect.tested_by.is_none() && suspect.due <= time {
                due.insert((suspect.due, id));
            }
        }
        let running = self.0.values().filter(|suspect| suspect.tested_by.is_some()).count();
        for (_, id) in due.into_iter().take(MOST_AT_ONCE.saturating_sub(running)) {
            let (Some(suspect), Some(mark)) = (self.0.get_mut(&id), marks.get(&id)) else { continue };
            suspect.tested_by = Some(*mark);
            orders.push(Order::Test(id, if suspect.dead.is_some() { 1 } else { FIRST_TRIES }));
        }
        orders
    }

    /// Takes in the end of a test. `mark` is the mark that the backend has now.
    pub(super) fn tested(
        &mut self,
        id: BackendId,
        outcome: Outcome,
        mark: Option<FailureMark>,
        time: Instant,
    ) -> Sentence {
        let Some(suspect) = self.0.get_mut(&id) else { return Sentence::Open };
        let before = suspect.tested_by.take();
        let (Some(before), Some(mark)) = (before, mark) else {
            // A client was answered.
            self.0.remove(&id);
            return Sentence::Open;
        };
        suspect.due = time + AGAIN;
        match outcome {
            Outcome::Answered => {
                self.0.remove(&id);
                Sentence::Well
            }
            Outcome::Failed(why) if mark.kind() == FailureKind::Dead || is_same_row(before, mark) => {
                suspect.dead = Some(why);
                Sentence::Dead
            }
            Outcome::Failed(_) => {
                suspect.due = time;
                Sentence::Open
            }
            Outcome::NotMade => Sentence::Open,
        }
    }

    /// The backends that are dead, and why.
    pub(super) fn dead(&self) -> BTreeMap<BackendId, FailureReason> {
        self.0.iter().filter_map(|(id, suspect)| Some((*id, suspect.dead?))).collect()
    }
}

/// Whether both marks are of one row of failures, without an answer in between. An answer removes the mark, and
/// the next failure makes one with its own time. Only the second refusal in a row changes the time of a mark.
fn is_same_row(before: FailureMark, now: FailureMark) -> bool {
    before.tick() == now.tick() || now.kind() == FailureKind::RefusedAgain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const ID: BackendId = BackendId::new(7, 1);
    const TICK: Tick = 100;
    const SECOND: Duration = Duration::from_secs(1);
    const SILENT: Outcome = Outcome::Failed(FailureReason::TimedOut);

    fn marks(kind: FailureKind, tick: Tick) -> HashMap<BackendId, FailureMark> {
        [(ID, FailureMark::new(kind, tick))].into()
    }

    fn mark(kind: FailureKind, tick: Tick) -> Option<FailureMark> {
        Some(FailureMark::new(kind, tick))
    }

    /// A suspected backend whose test runs.
    fn suspected(kind: FailureKind, time: Instant) -> Suspects {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.look(&marks(kind, TICK), TICK, time), [Order::Test(ID, FIRST_TRIES)]);
        assert_eq!(suspects.look(&marks(kind, TICK), TICK, time), [], "it runs");
        suspects
    }

    #[test]
    fn a_backend_that_fails_all_tests_is_dead_until_it_answers_one() {
        let mut time = clock::now();
        let mut suspects = suspected(FailureKind::Unanswered, time);
        assert!(suspects.dead().is_empty(), "not before the end of the test");
        let still = mark(FailureKind::Unanswered, TICK);
        assert_eq!(suspects.tested(ID, SILENT, still, time), Sentence::Dead);
        assert_eq!(suspects.dead(), [(ID, FailureReason::TimedOut)].into());
        let dead = marks(FailureKind::Dead, TICK + 1);
        assert_eq!(suspects.look(&dead, TICK + 1, time), [], "it was tested just now");
        time += AGAIN;
        assert_eq!(suspects.look(&dead, TICK + 2, time), [Order::Test(ID, 1)]);
        let refused = Outcome::Failed(FailureReason::Refused);
        assert_eq!(suspects.tested(ID, refused, dead.get(&ID).copied(), time), Sentence::Dead);
        assert_eq!(suspects.dead(), [(ID, FailureReason::Refused)].into());
        time += AGAIN;
        assert_eq!(suspects.look(&dead, TICK + 3, time), [Order::Test(ID, 1)]);
        assert_eq!(suspects.tested(ID, Outcome::Answered, dead.get(&ID).copied(), time), Sentence::Well);
        assert!(suspects.dead().is_empty());
    }

    #[test]
    fn one_answer_is_enough() {
        let time = clock::now();
        let mut suspects = suspected(FailureKind::Unanswered, time);
        let still = mark(FailureKind::Unanswered, TICK);
        assert_eq!(suspects.tested(ID, Outcome::Answered, still, time), Sentence::Well);
        assert_eq!(suspects.look(&HashMap::new(), TICK, time), []);
        assert!(suspects.0.is_empty());
    }

    #[test]
    fn a_backend_that_answers_clients_is_not_dead() {
        let time = clock::now();
        let mut suspects = suspected(FailureKind::Unanswered, time);
        assert_eq!(suspects.tested(ID, SILENT, None, time), Sentence::Open, "its mark is gone");
        // It answered, and then failed again: it is tested anew.
        for kind in [FailureKind::Unanswered, FailureKind::Refused] {
            let mut suspects = suspected(kind, time);
            assert_eq!(suspects.tested(ID, SILENT, mark(kind, TICK + 1), time), Sentence::Open);
            assert!(suspects.dead().is_empty());
            let orders = suspects.look(&marks(kind, TICK + 1), TICK + 1, time);
            assert_eq!(orders, [Order::Test(ID, FIRST_TRIES)]);
        }
    }

    #[test]
    fn a_second_refusal_during_the_test_is_no_answer() {
        let time = clock::now();
        for kind in [FailureKind::Unanswered, FailureKind::Refused] {
            let mut suspects = suspected(kind, time);
            let again = mark(FailureKind::RefusedAgain, TICK + 1);
            assert_eq!(suspects.tested(ID, SILENT, again, time), Sentence::Dead);
        }
    }

    #[test]
    fn a_dead_backend_that_answers_a_client_is_alive_at_once() {
        let time = clock::now();
        let mut suspects = suspected(FailureKind::Unanswered, time);
        suspects.tested(ID, SILENT, mark(FailureKind::Unanswered, TICK), time);
        suspects.look(&HashMap::new(), TICK + 1, time);
        assert!(suspects.dead().is_empty());
        // It fails again: that is a new suspicion.
        let orders = suspects.look(&marks(FailureKind::Unanswered, TICK + 2), TICK + 2, time);
        assert_eq!(orders, [Order::Test(ID, FIRST_TRIES)]);
    }

    #[test]
    fn what_this_machine_could_not_try_says_nothing() {
        let time = clock::now();
        let mut suspects = suspected(FailureKind::Unanswered, time);
        let (known, still) = (marks(FailureKind::Unanswered, TICK), mark(FailureKind::Unanswered, TICK));
        assert_eq!(suspects.tested(ID, Outcome::NotMade, still, time), Sentence::Open);
        assert!(suspects.dead().is_empty());
        assert_eq!(suspects.look(&known, TICK, time), []);
        assert_eq!(suspects.look(&known, TICK, time + AGAIN), [Order::Test(ID, FIRST_TRIES)]);
    }

    #[test]
    fn the_mark_of_a_dead_backend_is_renewed_also_while_its_test_waits_or_runs() {
        let time = clock::now();
        let mut suspects = suspected(FailureKind::Unanswered, time);
        suspects.tested(ID, SILENT, mark(FailureKind::Unanswered, TICK), time);
        let (dead, late) = (marks(FailureKind::Dead, TICK), time + AGAIN);
        assert_eq!(suspects.look(&dead, TICK + 4, time), [Order::Renew(ID)]);
        assert_eq!(suspects.look(&dead, TICK + 4, late), [Order::Renew(ID), Order::Test(ID, 1)]);
        assert_eq!(suspects.look(&dead, TICK + 4, late), [Order::Renew(ID)]);
    }

    /// It is not known why the agent before said so, and whether it is still true.
    #[test]
    fn a_mark_of_the_agent_before_is_not_renewed_before_a_test() {
        let (mut suspects, time) = (Suspects::default(), clock::now());
        let dead = marks(FailureKind::Dead, TICK);
        assert_eq!(suspects.look(&dead, TICK + 5, time), [Order::Test(ID, FIRST_TRIES)]);
        assert!(suspects.dead().is_empty());
        assert_eq!(suspects.tested(ID, SILENT, dead.get(&ID).copied(), time), Sentence::Dead);
    }

    #[test]
    fn tests_at_the_same_time_are_limited_and_each_backend_gets_its_turn() {
        let (mut suspects, time) = (Suspects::default(), clock::now());
        let of = |number: u32| BackendId::new(number, 1);
        let all = 3 * MOST_AT_ONCE as u32;
        let marks: HashMap<_, _> =
            (0..all).map(|number| (of(number), FailureMark::new(FailureKind::Unanswered, TICK))).collect();
        let mut tested = BTreeSet::new();
        for round in 0..3 {
            let time = time + round * SECOND;
            let orders = suspects.look(&marks, TICK, time);
            assert_eq!(orders.len(), MOST_AT_ONCE);
            assert_eq!(suspects.look(&marks, TICK, time), []);
            for order in orders {
                let Order::Test(id, _) = order else { panic!("{order:?}") };
                tested.insert(id);
                suspects.tested(id, Outcome::NotMade, marks.get(&id).copied(), time);
            }
        }
        assert_eq!(tested.len(), all as usize);
    }
}
