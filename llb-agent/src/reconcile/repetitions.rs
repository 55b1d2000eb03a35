// SPDX-License-Identifier: Apache-2.0
//! Notices that something undoes again and again what the loop does, and then
//! makes the loop repeat it after growing pauses. Pure; the clock is an argument.
//!
//! ```text
//!   carried out -> planned again, unchanged -> carried out -> ...
//!      the first AT_ONCE repetitions follow at once, because one accident is healed best at once;
//!      then FIRST_PAUSE, doubled each time, up to LAST_PAUSE;
//!      it is over when the change has lasted for LASTING
//! ```
//!
//! Only addresses and statuses are looked at. Others can change them too, while
//! only llb changes its frontends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::ProblemReason;
use crate::plan::{Action, ActionKey};

/// How often an action is repeated without a pause.
const AT_ONCE: u32 = 3;
/// The pause before the next repetition.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two repetitions.
pub const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A change that has lasted for this long was not undone. Longer than
/// [`LAST_PAUSE`], so that the pauses themselves do not end the count.
const LASTING: Duration = Duration::from_secs(150);

/// The actions of the last time, by their object.
#[derive(Debug, Default)]
pub(super) struct Repetitions {
    done: BTreeMap<ActionKey, Done>,
    /// Those that are planned again, and have to wait.
    waiting: BTreeSet<ActionKey>,
}

#[derive(Debug)]
struct Done {
    action: Action,
    last: Instant,
    /// How often it was carried out again.
    repetitions: u32,
}

impl Done {
    fn pause(&self) -> Duration {
        match self.repetitions.checked_sub(AT_ONCE) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LAST_PAUSE),
        }
    }

    fn is_undone_again_and_again(&self) -> bool {
        self.repetitions >= AT_ONCE
    }

    fn has_lasted(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= LASTING
    }

    /// The same after each repetition, so that Events can be told apart by it.
    fn message(&self) -> String {
        let longest = LAST_PAUSE.as_secs();
        match &self.action {
            Action::AddAddress { key, .. } => format!(
                "something removes {key} again and again; llb puts it back, but waits for up to {longest} s each \
                 time: find the program that manages {} (`ip monitor address` shows each removal)",
                key.link
            ),
            Action::RemoveAddress { key, .. } => format!(
                "something adds {key} again and again, marked as llb's; llb removes it, but waits for up to \
                 {longest} s each time: `ip monitor address` shows each addition"
            ),
            Action::WriteStatus { service, .. } => format!(
                "something overwrites the status of {service} again and again; llb writes it, but waits for up to \
                 {longest} s each time: `kubectl get service {} -n {} -o yaml --show-managed-fields` names the writer",
                service.name, service.namespace
            ),
            Action::ProbeAddress { .. } | Action::UpsertFrontend { .. } | Action::RemoveFrontend { .. } => {
                self.action.to_string()
            }
        }
    }
}

impl Repetitions {
    /// An action was carried out. True if from now on its repetitions have to wait,
    /// and did not before.
    pub(super) fn carried_out(&mut self, action: &Action, now: Instant) -> bool {
        let key = action.key();
        if matches!(key, ActionKey::Frontend(_)) || matches!(action, Action::ProbeAddress { .. }) {
            return false;
        }
        let before = self.done.get(&key).filter(|done| done.action == *action && !done.has_lasted(now));
        let repetitions = before.map_or(0, |done| done.repetitions.saturating_add(1));
        self.done.insert(key, Done { action: action.clone(), last: now, repetitions });
        repetitions == AT_ONCE
    }

    /// Removes those of `planned` that have to wait.
    pub(super) fn hold_back(&mut self, planned: &mut Vec<Action>, now: Instant) {
        self.waiting.clear();
        planned.retain(|action| {
            let key = action.key();
            let done = self.done.get(&key).filter(|done| done.action == *action);
            let must_wait = done.is_some_and(|done| now < done.last + done.pause());
            if must_wait {
                self.waiting.insert(key);
            }
            !must_wait
        });
    }

    /// When the next action may be repeated that has to wait.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().filter_map(|key| self.done.get(key));
        waiting.map(|done| done.last + done.pause()).min()
    }

    /// Forgets what has lasted. Returns those actions that were undone again and
    /// again, and are not any more.
    pub(super) fn forget_lasting(&mut self, now: Instant) -> Vec<Action> {
        let mut over = Vec::new();
        self.done.retain(|_, done| {
            let has_lasted = done.has_lasted(now);
            if has_lasted && done.is_undone_again_and_again() {
                over.push(done.action.clone());
            }
            !has_lasted
        });
        over
    }

    /// What is undone again and again: the object, the problem's reason and message,
    /// and how often the action was carried out.
    pub(super) fn undone(&self) -> impl Iterator<Item = (&ActionKey, ProblemReason, String, u32)> {
        let undone = self.done.iter().filter(|(_, done)| done.is_undone_again_and_again());
        undone.map(|(key, done)| {
            (key, ProblemReason::ChangeUndone, done.message(), done.repetitions.saturating_add(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::model::AddressKey;

    const SECOND: Duration = Duration::from_secs(1);

    fn add(address: &str) -> Action {
        let key = AddressKey { link: "eth0".to_owned(), address: address.parse().unwrap() };
        Action::AddAddress { key, prefix_length: 24 }
    }

    fn is_due(repetitions: &mut Repetitions, action: &Action, now: Instant) -> bool {
        let mut planned = vec![action.clone()];
        repetitions.hold_back(&mut planned, now);
        !planned.is_empty()
    }

    /// Repeats the action as often as it may be within `time`, which something undoes
    /// at once; the seconds from the beginning.
    fn fight(repetitions: &mut Repetitions, action: &Action, begin: Instant, time: Duration) -> Vec<u64> {
        let (mut times, mut now) = (Vec::new(), begin);
        while now < begin + time {
            if is_due(repetitions, action, now) {
                repetitions.carried_out(action, now);
                times.push((now - begin).as_secs());
            }
            now = repetitions.next().unwrap_or(now);
        }
        times
    }

    #[test]
    fn what_is_undone_is_repeated_at_once_and_then_after_growing_pauses() {
        let (mut repetitions, begin) = (Repetitions::default(), clock::now_std());
        let times = fight(&mut repetitions, &add("192.0.2.1"), begin, 300 * SECOND);
        assert_eq!(times, [0, 0, 0, 0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert_eq!(fight(&mut repetitions, &add("192.0.2.2"), begin, SECOND).len(), 4, "each object alone");
        assert_eq!(repetitions.undone().count(), 2);
    }

    #[test]
    fn only_the_first_pause_is_announced() {
        let (mut repetitions, now) = (Repetitions::default(), clock::now_std());
        let announced: Vec<bool> = (0..6).map(|_| repetitions.carried_out(&add("192.0.2.1"), now)).collect();
        assert_eq!(announced, [false, false, false, true, false, false]);
    }

    #[test]
    fn it_is_over_when_the_change_has_lasted() {
        let (mut repetitions, begin) = (Repetitions::default(), clock::now_std());
        let action = add("192.0.2.1");
        fight(&mut repetitions, &action, begin, SECOND);
        assert!(repetitions.forget_lasting(begin + LAST_PAUSE).is_empty());
        assert_eq!(repetitions.undone().count(), 1);
        assert_eq!(repetitions.forget_lasting(begin + LASTING), std::slice::from_ref(&action));
        assert_eq!(repetitions.undone().count(), 0);
        assert!(is_due(&mut repetitions, &action, begin + LASTING));
    }

    #[test]
    fn accidents_that_are_far_apart_are_no_fight() {
        let (mut repetitions, begin) = (Repetitions::default(), clock::now_std());
        let action = add("192.0.2.1");
        for number in 0..20 {
            let now = begin + number * LASTING;
            assert!(is_due(&mut repetitions, &action, now));
            assert!(!repetitions.carried_out(&action, now));
        }
    }

    #[test]
    fn what_llb_itself_changes_is_no_repetition() {
        let (mut repetitions, now) = (Repetitions::default(), clock::now_std());
        let Action::AddAddress { key, prefix_length } = add("192.0.2.1") else { unreachable!() };
        let both = [add("192.0.2.1"), Action::RemoveAddress { key, prefix_length }];
        for action in both.iter().cycle().take(20) {
            assert!(is_due(&mut repetitions, action, now));
            assert!(!repetitions.carried_out(action, now));
        }
    }
}
