// SPDX-License-Identifier: Apache-2.0
//! What is due: retries with growing delays, one object at a time. Pure; the
//! clock is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::outcome::Failed;
use crate::model::{Problem, ServiceName, Subject};
use crate::plan::{Action, ActionKey};

/// The first delay after a failure; it doubles with each further one ...
pub const FIRST_RETRY: Duration = Duration::from_millis(500);
/// ... up to this: a port that another program gives back is taken within it.
pub const LAST_RETRY: Duration = Duration::from_secs(30);

/// Remembers which objects failed and which are being worked on.
#[derive(Debug, Default)]
pub(super) struct Machine {
    failures: BTreeMap<ActionKey, Failure>,
    in_flight: BTreeSet<ActionKey>,
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
    /// Those of `planned` that may run now. Objects that are planned no more
    /// are forgotten, so a problem that went away by itself is reported no more.
    pub(super) fn due(&mut self, planned: Vec<Action>, now: Instant) -> Vec<Action> {
        let keys: BTreeSet<ActionKey> = planned.iter().map(Action::key).collect();
        self.failures.retain(|key, _| keys.contains(key));
        planned.into_iter().filter(|action| self.is_due(action, now)).collect()
    }

    fn is_due(&self, action: &Action, now: Instant) -> bool {
        let key = action.key();
        // Another action on the same object deserves a try of its own.
        let waits = |failure: &Failure| failure.action == *action && now < failure.due;
        !self.in_flight.contains(&key) && !self.failures.get(&key).is_some_and(waits)
    }

    /// An action that ends later, by [`Machine::succeeded`] or [`Machine::failed`], was started.
    pub(super) fn started(&mut self, key: ActionKey) {
        self.in_flight.insert(key);
    }

    /// A new round: addresses that were probed for are asked about again. They
    /// have no end of their own, so that a Service that goes meanwhile needs none.
    pub(super) fn resume_addresses(&mut self) {
        self.in_flight.retain(|key| !matches!(key, ActionKey::Address(_)));
    }

    /// What is being worked on.
    pub(super) fn in_flight(&self) -> &BTreeSet<ActionKey> {
        &self.in_flight
    }

    /// An action was carried out.
    pub(super) fn succeeded(&mut self, key: &ActionKey) {
        self.in_flight.remove(key);
        self.failures.remove(key);
    }

    /// An action failed; it is due again after the returned delay. True when
    /// it is the first failure or another one than before: worth a log line.
    pub(super) fn failed(&mut self, action: Action, why: Failed, now: Instant) -> bool {
        let key = action.key();
        self.in_flight.remove(&key);
        let before = self.failures.get(&key).filter(|failure| failure.action == action);
        let attempts = before.map_or(1, |failure| failure.attempts.saturating_add(1));
        let news = before.is_none_or(|failure| failure.why != why);
        let due = now + delay_after(attempts);
        self.failures.insert(key, Failure { action, attempts, due, why });
        news
    }

    /// When the next retry is due; what is being retried is no reason to wake up.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let waiting = self.failures.iter().filter(|(key, _)| !self.in_flight.contains(key));
        waiting.map(|(_, failure)| failure.due).min()
    }

    /// What fails now, once for each Service that needs the object. An object
    /// that no Service needs any more speaks for itself.
    pub(super) fn failing(&self, owners: impl Fn(&ActionKey) -> BTreeSet<ServiceName>) -> Vec<Failing> {
        let failing = |subject: Subject, failure: &Failure| {
            let Failed { reason, message } = failure.why.clone();
            Failing { problem: Problem { subject, reason, message }, attempts: failure.attempts }
        };
        let of_failure = |(key, failure): (&ActionKey, &Failure)| -> Vec<Failing> {
            let owners = owners(key);
            match key {
                ActionKey::Address(address) if owners.is_empty() => {
                    vec![failing(Subject::Link(address.link.clone()), failure)]
                }
                ActionKey::Frontend(frontend) if owners.is_empty() => {
                    vec![failing(Subject::Object(format!("frontend {frontend}")), failure)]
                }
                _ => owners.into_iter().map(|name| failing(Subject::Service(name), failure)).collect(),
            }
        };
        self.failures.iter().flat_map(of_failure).collect()
    }
}

fn delay_after(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AddressKey, ProblemReason, PublishedStatus};

    fn no() -> Failed {
        Failed { reason: ProblemReason::ActionFailed, message: "no".to_owned() }
    }

    fn remove(address: &str) -> Action {
        let key = AddressKey { link: "eth0".to_owned(), address: address.parse().unwrap() };
        Action::RemoveAddress { key, prefix_length: 24 }
    }

    #[test]
    fn delays_double_up_to_the_last() {
        let delays: Vec<u64> =
            [1, 2, 3, 6, 7, 8, 4_000_000_000].map(|n| delay_after(n).as_millis() as u64).to_vec();
        assert_eq!(delays, [500, 1_000, 2_000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn a_failure_waits_alone() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        let (bad, good) = (remove("192.0.2.1"), remove("192.0.2.2"));
        assert!(machine.failed(bad.clone(), no(), start));
        assert_eq!(machine.due(vec![bad.clone(), good.clone()], start), std::slice::from_ref(&good));
        assert_eq!(machine.next_retry(), Some(start + FIRST_RETRY));
        assert_eq!(machine.due(vec![bad.clone()], start + FIRST_RETRY), std::slice::from_ref(&bad));
        assert!(!machine.failed(bad.clone(), no(), start), "the same failure is no news");
        machine.succeeded(&bad.key());
        assert_eq!(machine.next_retry(), None);
    }

    #[test]
    fn a_failed_address_that_is_probed_for_again_waits_for_the_next_round() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        let add = remove("192.0.2.1");
        machine.failed(add.clone(), no(), start);
        let later = start + FIRST_RETRY;
        assert_eq!(machine.due(vec![add.clone()], later).len(), 1);
        machine.started(add.key());
        assert_eq!(machine.due(vec![add.clone()], later).len(), 0);
        assert_eq!(machine.next_retry(), None, "the end of the probe wakes the loop");
        assert_eq!(machine.failing(|_| BTreeSet::new()).len(), 1, "it is not over yet");
        machine.resume_addresses();
        assert_eq!(machine.due(vec![add], later).len(), 1);
    }

    #[test]
    fn what_is_planned_no_more_is_forgotten() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        machine.failed(remove("192.0.2.1"), no(), start);
        let failing = machine.failing(|_| BTreeSet::new());
        assert_eq!(failing.len(), 1);
        assert_eq!(failing[0].problem.message, "no");
        assert_eq!(failing.into_iter().next().unwrap().shown().message, "no (tried 1 times)");
        machine.due(Vec::new(), start);
        assert_eq!(machine.failing(|_| BTreeSet::new()).len(), 0);
    }

    #[test]
    fn a_changed_action_is_tried_at_once_and_one_in_flight_is_not() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        let service = ServiceName::new("a", "b");
        let write = |vips| Action::WriteStatus {
            service: service.clone(),
            status: PublishedStatus { vips: Vec::into(vips) },
        };
        let vip =
            crate::model::PublishedVip { ip: "192.0.2.1".parse().unwrap(), proxy: true, ports: Vec::new() };
        machine.failed(write(vec![vip]), no(), start);
        assert_eq!(machine.due(vec![write(Vec::new())], start).len(), 1);
        machine.started(write(Vec::new()).key());
        assert_eq!(machine.next_retry(), None);
        assert_eq!(machine.due(vec![write(Vec::new())], start + LAST_RETRY).len(), 0);
    }
}
