// SPDX-License-Identifier: Apache-2.0
//! The acting half of a round: plan, act, read back, and again until nothing
//! is due or the round has done enough.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::conditions::View;
use super::executor::{Execution, RoundInput};
use super::outcome::Outcome;
use super::overwrites::Written;
use super::progress::Progress;
use super::reconciler::Reconciler;
use super::repetitions::LAST_PAUSE;
use super::reporter::Reporter;
use super::standby;
use crate::addresses::AddressTable;
use crate::dataplane::DataPlane;
use crate::model::{AddressKey, Conditions, Observed, Problem, PublishedStatus, ServiceName, Snapshot};
use crate::plan::{self, Action, ActionKey};
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
        for pass in 0..PASSES {
            self.note_owners(&mut observed);
            if pass == 0 {
                self.look_at_conditions(&observed, input);
            }
            let due = self.due(&observed, input);
            if due.is_empty() {
                break;
            }
            let coming: Vec<(&AddressKey, u8)> = due.iter().filter_map(Action::added_address).collect();
            if !coming.is_empty() {
                self.rooms.addresses.prepare(&coming, left).await;
            }
            for action in due {
                let candidate = first.is_none().then(|| action.clone());
                if self.act(action, &observed, input).await {
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
    fn due(&mut self, observed: &Observed, input: RoundInput<'_>) -> Vec<Action> {
        let (mut possible, writes) = (Arc::clone(&self.desired), self.writer.writes());
        if !writes {
            let unpublished = standby::unpublished(&self.desired, observed);
            if !unpublished.is_empty() {
                possible = Arc::new(standby::without(&possible, &unpublished));
            }
        }
        let mut planned = plan::plan(&possible, observed);
        planned.retain(|action| writes || !matches!(action, Action::WriteStatus { .. }));
        if writes {
            self.plan_conditions(&mut planned, observed, input);
        }
        let due = self.machine.due(planned, input.now);
        let held = plan::hold_back(due, self.machine.in_flight(), &self.desired, observed);
        self.machine.set_waiting(held.waiting);
        let mut due = held.now;
        self.overwrites.hold_back(&mut due, &observed.statuses, input.snapshot, input.now);
        due.retain(|action| self.stage.allows(action));
        due
    }

    /// Finds the conditions that are to be written alone in this round.
    fn look_at_conditions(&mut self, observed: &Observed, input: RoundInput<'_>) {
        let Some(shown) = observed.conditions.as_ref().filter(|_| self.writer.writes()) else { return };
        let agent = self.agent_name();
        let view = View::new((input.snapshot, input.problems), &self.desired, observed, &agent);
        self.conditions.look(&view, shown, input.now);
    }

    /// Adds the writes of conditions alone, and holds back first statuses for a moment.
    fn plan_conditions(&mut self, planned: &mut Vec<Action>, observed: &Observed, input: RoundInput<'_>) {
        if observed.conditions.is_none() {
            return;
        }
        let agent = self.agent_name();
        let view = View::new((input.snapshot, input.problems), &self.desired, observed, &agent);
        self.conditions.hold_first(planned, &view, input.now);
        let written: BTreeSet<ActionKey> = planned.iter().map(Action::key).collect();
        let alone = self.conditions.due().filter(|action| !written.contains(&action.key()));
        planned.extend(alone);
    }

    /// The conditions that go with a write of the status.
    fn conditions_with(
        &self,
        action: &Action,
        observed: &Observed,
        input: RoundInput<'_>,
    ) -> Option<Conditions> {
        let Action::WriteStatus { service, .. } = action else { return None };
        let shown = observed.conditions.as_ref()?;
        let agent = self.agent_name();
        let wanted = View::new((input.snapshot, input.problems), &self.desired, observed, &agent)
            .conditions_of(service);
        Some(wanted.after(shown.get(service).unwrap_or(&Conditions::default())))
    }

    /// How this agent is called in conditions.
    fn agent_name(&self) -> String {
        self.writer.identity.clone().unwrap_or_else(|| "llb".to_owned())
    }

    /// Adds what is known of the owners of the wanted VIPs that are not on their links.
    fn note_owners(&self, observed: &mut Observed) {
        let missing = |key: &&AddressKey| !observed.addresses.contains_key(*key);
        let free = self.desired.addresses.keys().filter(missing);
        let free = free.filter(|key| self.rooms.addresses.is_free(key));
        let free: BTreeSet<IpAddr> = free.map(|key| key.address).collect();
        let is_wanted = |key: &AddressKey| self.desired.addresses.contains_key(key) && missing(&key);
        let taken = self.machine.refused().filter(|(key, _)| is_wanted(key) && !free.contains(&key.address));
        // The former writer of the group may serve what it has published, so that stays published.
        let confirmed = |vip: &IpAddr, times: u32| match self.inherited.contains(vip) {
            true => times.min(plan::CONFIRMED - 1),
            false => times,
        };
        observed.taken = taken.map(|(key, times)| (key.address, confirmed(&key.address, times))).collect();
        observed.free = free;
    }

    /// True if the action has ended; false if it goes on beside the loop.
    async fn act(&mut self, action: Action, observed: &Observed, input: RoundInput<'_>) -> bool {
        let key = action.key();
        let conditions = self.conditions_with(&action, observed, input);
        match self.rooms.execute(action, conditions, input, &mut self.writes).await {
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
                    self.note_status(service, &replaced, status, snapshot, now);
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

    /// Notes that a status was written: an Event says so, unless another program has overwritten it.
    fn note_status(
        &mut self,
        name: &ServiceName,
        replaced: &PublishedStatus,
        status: &PublishedStatus,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let Some(service) = snapshot.services.get(name) else { return };
        match self.overwrites.written(name, service, replaced, status, now) {
            Written::News => self.send(Reporter::written(name, &service.uid, replaced, status)),
            Written::Again { waits: false } => {}
            Written::Again { waits: true } => tracing::warn!(
                service = %name,
                longest_pause = ?LAST_PAUSE,
                "another program overwrites this status again and again; from now on it is written after growing pauses"
            ),
        }
    }
}
