// SPDX-License-Identifier: Apache-2.0
//! The acting half of a round: plan, act, read back, and again until nothing
//! is due or the round has done enough.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::executor::{Execution, RoundInput};
use super::outcome::Outcome;
use super::progress::Progress;
use super::reconciler::Reconciler;
use super::repetitions::LAST_PAUSE;
use super::reporter::Reporter;
use crate::addresses::AddressTable;
use crate::dataplane::DataPlane;
use crate::model::{AddressKey, Observed, Problem, Snapshot};
use crate::plan::{self, Action};
use crate::status::{Effect, StatusSink};

/// Passes of plan and act within one round. The longest chain is four
/// (probe, frontend, address, status). More means that something changes under us,
/// which the next round sees.
const PASSES: u32 = 8;

/// Actions that end within one round; the next round does the others at once.
/// Between rounds the loop looks at the stop signal and at changes. An action on
/// a link takes about 0.3 ms and at most 1 ms, so both wait for at most 0.3 s.
/// An action that ends later takes no time here and is not counted.
pub const ACTIONS: usize = 300;

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// Plans and acts until nothing is due, and says in `progress` how that
    /// ended. Returns what is then observed.
    pub(super) async fn settle(
        &mut self,
        mut observed: Observed,
        input: RoundInput<'_>,
        problems: &mut Vec<Problem>,
    ) -> Observed {
        let round_before = std::mem::take(&mut self.progress);
        let (mut left, mut first) = (ACTIONS, None);
        for _ in 0..PASSES {
            self.note_owners(&mut observed);
            let due = self.due(&observed, input.now);
            if due.is_empty() {
                break;
            }
            let coming: Vec<(&AddressKey, u8)> = due.iter().filter_map(Action::added_address).collect();
            if !coming.is_empty() {
                self.rooms.addresses.prepare(&coming, left).await;
            }
            for action in due {
                let candidate = first.is_none().then(|| action.clone());
                if self.act(action, input).await {
                    left -= 1;
                    first = first.or(candidate);
                }
                if left == 0 {
                    break;
                }
            }
            match self.observe(input.snapshot).await {
                Ok(read) => observed = read,
                Err(problem) => {
                    problems.push(problem);
                    break;
                }
            }
            if left == 0 {
                self.progress = first.map_or(Progress::Complete, |first| round_before.then_cut_short(first));
                break;
            }
        }
        observed
    }

    /// What may be done now, in order.
    fn due(&mut self, observed: &Observed, now: Instant) -> Vec<Action> {
        let due = self.machine.due(plan::plan(&self.desired, observed), now);
        let held = plan::hold_back(due, self.machine.in_flight(), &self.desired, observed);
        self.machine.set_waiting(held.waiting);
        let mut due = held.now;
        due.retain(|action| self.stage.allows(action));
        due
    }

    /// Adds what is known of the owners of the wanted VIPs that are not on their links.
    fn note_owners(&self, observed: &mut Observed) {
        let missing = |key: &&AddressKey| !observed.addresses.contains_key(*key);
        let free = self.desired.addresses.keys().filter(missing);
        let free = free.filter(|key| self.rooms.addresses.is_free(key));
        let free: BTreeSet<IpAddr> = free.map(|key| key.address).collect();
        let is_wanted = |key: &AddressKey| self.desired.addresses.contains_key(key) && missing(&key);
        let taken = self.machine.refused().filter(|(key, _)| is_wanted(key) && !free.contains(&key.address));
        observed.taken = taken.map(|(key, times)| (key.address, times)).collect();
        observed.free = free;
    }

    /// True if the action has ended; false if it goes on beside the loop.
    async fn act(&mut self, action: Action, input: RoundInput<'_>) -> bool {
        let key = action.key();
        match self.rooms.execute(action, input, &mut self.writes).await {
            Execution::Ended(outcome) => {
                self.note(outcome, input.snapshot, input.now);
                true
            }
            Execution::Running => {
                self.machine.started(key);
                false
            }
        }
    }

    /// Notes the status writes that have ended.
    pub(super) fn note_ended_writes(&mut self, snapshot: &Snapshot, now: Instant) {
        while let Some(outcome) = self.writes.take_ended() {
            self.note(outcome, snapshot, now);
        }
    }

    /// Notes how an action ended: for metrics, retries, the log and Events.
    fn note(&mut self, outcome: Outcome, snapshot: &Snapshot, now: Instant) {
        let Outcome { action, replaced, result } = outcome;
        self.metrics.count(&action, result.is_ok());
        match result {
            Ok(Effect::Gone) => {
                tracing::info!(action = %action, "the Service no longer exists");
                self.machine.ended(&action.key());
            }
            Ok(Effect::Done) => {
                tracing::info!(action = %action, "done");
                if self.machine.succeeded(&action, now) {
                    tracing::warn!(
                        action = %action,
                        longest_pause = ?LAST_PAUSE,
                        "something undoes this again and again; from now on it is repeated after growing pauses"
                    );
                }
                if let Action::WriteStatus { service, status } = &action {
                    let uid = snapshot.services.get(service).map_or("", |known| known.uid.as_str());
                    self.send(Reporter::written(service, uid, &replaced, status));
                }
            }
            Err(why) => {
                let shown = action.to_string();
                if self.machine.failed(action, why.clone(), now) {
                    // The problem that this causes is logged at the end of the round.
                    tracing::info!(action = shown, error = why.message, "failed; it will be retried");
                }
            }
        }
    }
}
