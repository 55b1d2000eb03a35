// SPDX-License-Identifier: Apache-2.0
//! Decides what is due: a failed action is retried after growing delays, and one
//! object is never worked on twice at the same time. Pure; the clock is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::outcome::Failed;
use super::repetitions::Repetitions;
use crate::model::{AddressKey, Problem, ProblemReason, ServiceName, Subject};
use crate::plan::{Action, ActionKey};

/// The delay after the first failure. It doubles with each further one, up to [`LAST_RETRY`].
pub const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest delay between two attempts. When another program releases a port,
/// llb has it at most this long afterwards.
pub const LAST_RETRY: Duration = Duration::from_secs(30);

/// Remembers which objects have failed and which are being worked on.
#[derive(Debug, Default)]
pub(super) struct Machine {
    failures: BTreeMap<ActionKey, Failure>,
    in_flight: BTreeSet<ActionKey>,
    /// Their actions are held back.
    waiting: BTreeSet<ActionKey>,
    repetitions: Repetitions,
}

#[derive(Debug)]
struct Failure {
    action: Action,
    attempts: u32,
    due: Instant,
    why: Failed,
}

/// An action that fails, as a problem of the object that it is for.
#[derive(Debug)]
pub(super) struct Failing {
    /// The same after each attempt, so that Events can be told apart by it.
    pub(super) problem: Problem,
    /// How often the action was tried.
    pub(super) attempts: u32,
}

impl Failing {
    /// The problem as the report shows it: with the number of attempts.
    pub(super) fn shown(self) -> Problem {
        let message = format!("{} (tried {} times)", self.problem.message, self.attempts);
        Problem { message, ..self.problem }
    }
}

impl Machine {
    /// Those of `planned` that may run now. A failure of an object that is no
    /// longer planned is forgotten: it has resolved itself, and is not reported any more.
    pub(super) fn due(&mut self, planned: Vec<Action>, now: Instant) -> Vec<Action> {
        let keys: BTreeSet<ActionKey> = planned.iter().map(Action::key).collect();
        self.failures.retain(|key, _| keys.contains(key));
        let mut due: Vec<Action> = planned.into_iter().filter(|action| self.is_due(action, now)).collect();
        self.repetitions.hold_back(&mut due, now);
        due
    }

    fn is_due(&self, action: &Action, now: Instant) -> bool {
        let key = action.key();
        // A different action on the same object need not wait.
        let waits = |failure: &Failure| failure.action == *action && now < failure.due;
        !self.in_flight.contains(&key) && !self.failures.get(&key).is_some_and(waits)
    }

    /// An action was started that ends later, with [`Machine::succeeded`] or [`Machine::failed`].
    pub(super) fn started(&mut self, key: ActionKey) {
        self.in_flight.insert(key);
    }

    /// Forgets which addresses are being probed for, at the start of a round: the
    /// round asks for them again. So a probe needs no end here, even if its Service
    /// is deleted meanwhile.
    pub(super) fn resume_addresses(&mut self) {
        self.in_flight.retain(|key| !matches!(key, ActionKey::Address(_)));
    }

    /// The objects that are being worked on.
    pub(super) fn in_flight(&self) -> &BTreeSet<ActionKey> {
        &self.in_flight
    }

    /// The addresses that other hosts have, so that they could not be put on a link, and how often
    /// in a row that was found.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&AddressKey, u32)> {
        let refused =
            self.failures.iter().filter(|(_, failure)| failure.why.reason == ProblemReason::VipConflict);
        refused.filter_map(|(key, failure)| match key {
            ActionKey::Address(key) => Some((key, failure.attempts)),
            ActionKey::Frontend(_) | ActionKey::Status(_) => None,
        })
    }

    /// These objects wait for the end of actions on others; that wakes the loop up.
    pub(super) fn set_waiting(&mut self, waiting: BTreeSet<ActionKey>) {
        self.waiting = waiting;
    }

    /// An action was carried out. True if something has undone it so often that it
    /// will be repeated after pauses only, and that is new.
    pub(super) fn succeeded(&mut self, action: &Action, now: Instant) -> bool {
        self.ended(&action.key());
        self.repetitions.carried_out(action, now)
    }

    /// What was undone until now had a reason: addresses have moved between the boxes of the group.
    pub(super) fn forget_repetitions(&mut self) {
        self.repetitions = Repetitions::default();
    }

    /// An action was not needed any more.
    pub(super) fn ended(&mut self, key: &ActionKey) {
        self.in_flight.remove(key);
        self.failures.remove(key);
    }

    /// The actions that were undone again and again until now, and have lasted since.
    pub(super) fn lasting(&mut self, now: Instant) -> Vec<Action> {
        self.repetitions.forget_lasting(now)
    }

    /// An action failed; it is due again after a delay. True if it is the first
    /// failure, or a different one than before, and so deserves a log line.
    pub(super) fn failed(&mut self, action: Action, why: Failed, now: Instant) -> bool {
        let key = action.key();
        self.in_flight.remove(&key);
        let before = self.failures.get(&key).filter(|failure| failure.action == action);
        let attempts = before.map_or(1, |failure| failure.attempts.saturating_add(1));
        let is_new = before.is_none_or(|failure| failure.why != why);
        let due = now + delay_after(attempts);
        self.failures.insert(key, Failure { action, attempts, due, why });
        is_new
    }

    /// What has failed may be tried again at once.
    pub(super) fn retry_now(&mut self, now: Instant) {
        self.failures.values_mut().for_each(|failure| failure.due = failure.due.min(now));
    }

    /// When the next retry or repetition is due. Objects that are being worked on, or that wait for others, do
    /// not count.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let is_idle = |key: &ActionKey| !self.in_flight.contains(key) && !self.waiting.contains(key);
        let retry =
            self.failures.iter().filter(|(key, _)| is_idle(key)).map(|(_, failure)| failure.due).min();
        retry.into_iter().chain(self.repetitions.next()).min()
    }

    /// What fails now, or is undone again and again: one entry for each Service that needs the object, or one
    /// for the object itself if no Service needs it any more.
    pub(super) fn failing(&self, owners: impl Fn(&ActionKey) -> BTreeSet<ServiceName>) -> Vec<Failing> {
        let failures = self.failures.iter().map(|(key, failure)| {
            let Failed { reason, message } = failure.why.clone();
            (key, reason, message, failure.attempts)
        });
        let mut all = Vec::new();
        for (key, reason, message, attempts) in failures.chain(self.repetitions.undone()) {
            for subject in subjects(key, owners(key)) {
                all.push(Failing {
                    problem: Problem { subject, reason, message: message.clone() },
                    attempts,
                });
            }
        }
        all
    }
}

fn subjects(key: &ActionKey, owners: BTreeSet<ServiceName>) -> Vec<Subject> {
    match key {
        ActionKey::Address(address) if owners.is_empty() => vec![Subject::Link(address.link.clone())],
        ActionKey::Frontend(frontend) if owners.is_empty() => {
            vec![Subject::Object(format!("frontend {frontend}"))]
        }
        _ => owners.into_iter().map(Subject::Service).collect(),
    }
}

fn delay_after(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::super::repetitions::FIRST_PAUSE;
    use super::*;
    use crate::clock;
    use crate::model::PublishedStatus;

    fn refused() -> Failed {
        Failed { reason: ProblemReason::ActionFailed, message: "refused".to_owned() }
    }

    fn remove(address: &str) -> Action {
        let key = AddressKey { link: "eth0".to_owned(), address: address.parse().unwrap() };
        Action::RemoveAddress { key, prefix_length: 24 }
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let delays: Vec<u64> =
            [1, 2, 3, 6, 7, 8, 4_000_000_000].map(|n| delay_after(n).as_millis() as u64).to_vec();
        assert_eq!(delays, [500, 1_000, 2_000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn a_failure_delays_only_its_own_object() {
        let (mut machine, start) = (Machine::default(), clock::now_std());
        let (bad, good) = (remove("192.0.2.1"), remove("192.0.2.2"));
        assert!(machine.failed(bad.clone(), refused(), start));
        assert_eq!(machine.due(vec![bad.clone(), good.clone()], start), std::slice::from_ref(&good));
        assert_eq!(machine.next_retry(), Some(start + FIRST_RETRY));
        assert_eq!(machine.due(vec![bad.clone()], start + FIRST_RETRY), std::slice::from_ref(&bad));
        assert!(!machine.failed(bad.clone(), refused(), start), "the same failure is not logged again");
        machine.succeeded(&bad, start);
        assert_eq!(machine.next_retry(), None);
    }

    #[test]
    fn a_failed_address_that_is_probed_for_again_waits_for_the_next_round() {
        let (mut machine, start) = (Machine::default(), clock::now_std());
        let add = remove("192.0.2.1");
        machine.failed(add.clone(), refused(), start);
        let later = start + FIRST_RETRY;
        assert_eq!(machine.due(vec![add.clone()], later).len(), 1);
        machine.started(add.key());
        assert_eq!(machine.due(vec![add.clone()], later).len(), 0);
        assert_eq!(machine.next_retry(), None, "the end of the probe wakes the loop up");
        assert_eq!(machine.failing(|_| BTreeSet::new()).len(), 1, "it still fails");
        machine.resume_addresses();
        assert_eq!(machine.due(vec![add], later).len(), 1);
    }

    #[test]
    fn a_failure_that_is_not_planned_any_more_is_forgotten() {
        let (mut machine, start) = (Machine::default(), clock::now_std());
        machine.failed(remove("192.0.2.1"), refused(), start);
        let failing = machine.failing(|_| BTreeSet::new());
        assert_eq!(failing.len(), 1);
        assert_eq!(failing[0].problem.message, "refused");
        assert_eq!(failing.into_iter().next().unwrap().shown().message, "refused (tried 1 times)");
        machine.due(Vec::new(), start);
        assert_eq!(machine.failing(|_| BTreeSet::new()).len(), 0);
    }

    #[test]
    fn an_address_that_is_removed_again_and_again_is_reported_and_waited_for() {
        let (mut machine, start) = (Machine::default(), clock::now_std());
        let action = remove("192.0.2.1");
        let mut carried_out = 0;
        while machine.due(vec![action.clone()], start).len() == 1 {
            carried_out += 1;
            machine.succeeded(&action, start);
        }
        assert_eq!(carried_out, 4);
        assert_eq!(machine.next_retry(), Some(start + FIRST_PAUSE));
        let failing = machine.failing(|_| BTreeSet::from([ServiceName::new("a", "b")]));
        assert_eq!(failing.len(), 1);
        assert_eq!(failing[0].problem.reason, ProblemReason::ChangeUndone);
        assert_eq!((&*failing[0].problem.subject.to_string(), failing[0].attempts), ("Service a/b", 4));
        assert_eq!(machine.due(vec![action], start + FIRST_PAUSE).len(), 1);
    }

    #[test]
    fn a_changed_action_does_not_wait_but_one_in_flight_does() {
        let (mut machine, start) = (Machine::default(), clock::now_std());
        let service = ServiceName::new("a", "b");
        let write = |vips| Action::WriteStatus {
            service: service.clone(),
            status: PublishedStatus { vips: Vec::into(vips), ..PublishedStatus::default() },
        };
        let vip =
            crate::model::PublishedVip { ip: "192.0.2.1".parse().unwrap(), proxy: true, ports: Vec::new() };
        machine.failed(write(vec![vip]), refused(), start);
        assert_eq!(machine.due(vec![write(Vec::new())], start).len(), 1);
        machine.started(write(Vec::new()).key());
        assert_eq!(machine.next_retry(), None);
        assert_eq!(machine.due(vec![write(Vec::new())], start + LAST_RETRY).len(), 0);
    }
}
