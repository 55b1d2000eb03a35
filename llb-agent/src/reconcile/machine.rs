// SPDX-License-Identifier: Apache-2.0
//! Decides what is due: a failed action is retried after growing delays, and one
//! object is never worked on twice at the same time. Pure; the clock is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::outcome::Failed;
use crate::model::{Problem, ServiceName, Subject};
use crate::plan::{Action, ActionKey};

/// The delay after the first failure. It doubles with each further one, up to [`LAST_RETRY`].
pub const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest delay between two attempts. A port that another program releases
/// is in use again within it.
pub const LAST_RETRY: Duration = Duration::from_secs(30);

/// Remembers which objects have failed and which are being worked on.
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
    /// Those of `planned` that may run now. A failure of an object that is no
    /// longer planned is forgotten: it has resolved itself, and is not reported any more.
    pub(super) fn due(&mut self, planned: Vec<Action>, now: Instant) -> Vec<Action> {
        let keys: BTreeSet<ActionKey> = planned.iter().map(Action::key).collect();
        self.failures.retain(|key, _| keys.contains(key));
        planned.into_iter().filter(|action| self.is_due(action, now)).collect()
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

    /// An action was carried out.
    pub(super) fn succeeded(&mut self, key: &ActionKey) {
        self.in_flight.remove(key);
        self.failures.remove(key);
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

    /// When the next retry is due. Objects that are being worked on do not count.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let waiting = self.failures.iter().filter(|(key, _)| !self.in_flight.contains(key));
        waiting.map(|(_, failure)| failure.due).min()
    }

    /// What fails now: one entry for each Service that needs the object, or one
    /// for the object itself if no Service needs it any more.
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
    use crate::clock;
    use crate::model::{AddressKey, ProblemReason, PublishedStatus};

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
        machine.succeeded(&bad.key());
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
    fn a_changed_action_does_not_wait_but_one_in_flight_does() {
        let (mut machine, start) = (Machine::default(), clock::now_std());
        let service = ServiceName::new("a", "b");
        let write = |vips| Action::WriteStatus {
            service: service.clone(),
            status: PublishedStatus { vips: Vec::into(vips) },
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
