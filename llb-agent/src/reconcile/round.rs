// SPDX-License-Identifier: Apache-2.0
//! One round: observe, decide once, settle, report.

use std::collections::BTreeMap;
use std::time::Instant;

use super::dead_backends::{self, retain_used};
use super::executor::RoundInput;
use super::machine::Failing;
use super::owners::{conflicts, owners};
use super::problem_log::Line;
use super::progress::Stage;
use super::reconciler::Reconciler;
use super::report::Report;
use super::reporter::Reporter;
use crate::addresses::AddressTable;
use crate::dataplane::DataPlane;
use crate::desired::{self, Held, Inputs};
use crate::model::{Problem, PublishedStatus, ServiceName, Snapshot, SourceReport, State, bound};
use crate::status::StatusSink;

/// What the statuses of Services say.
type Statuses = BTreeMap<ServiceName, PublishedStatus>;

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// One round: decides once, then plans and acts until nothing is due. `now`
    /// is the time by which retries are measured.
    pub async fn round(&mut self, source: &SourceReport, now: Instant) -> Report {
        let mut report = Report { problems: source.problems.clone(), ..Report::default() };
        let Some(snapshot) = source.snapshot.clone() else { return report };
        report.has_snapshot = true;
        self.metrics.rounds.inc();
        self.machine.resume_addresses();
        self.note_ended_writes(&snapshot, now);
        for action in self.machine.lasting(now) {
            tracing::info!(%action, "it is not undone any more");
        }
        let observed = match self.observe(&snapshot).await {
            Ok(observed) => observed,
            Err(problem) => {
                self.problem_log.begins(&problem, now).iter().for_each(Line::write);
                report.problems.push(problem);
                let desired = self.desired.clone();
                return Report { ready: self.is_ready(), is_blind: true, desired, ..report };
            }
        };
        let published = observed.statuses.clone();
        let held = held(&self.desired, &published);
        let resting = self.resting.at(now);
        let verdicts = self.health.verdicts();
        let inputs = Inputs {
            snapshot: &snapshot,
            facts: &self.facts,
            policy: &self.policy,
            held: &held,
            resting: &resting,
            verdicts: &verdicts,
        };
        let (desired, found) = desired::compile(inputs);
        self.health.ask(&desired.checks);
        let before = std::mem::replace(&mut self.desired, desired.into());
        self.resting.released(&before, &self.desired, now, self.policy.vip_rest);
        self.report_cleared(&before, &published, &snapshot);
        report.problems.extend(found);
        report.problems.extend(self.rooms.addresses.problems());
        report.problems.extend(self.rooms.plane.problems());

        let input = RoundInput { snapshot: &snapshot, published: &published, now };
        report.observed = self.settle(observed, input, &mut report.problems).await;
        if self.stage.is_in_charge() {
            self.rooms.plane.hold_ports(&self.desired.on_own_addresses);
        }
        report.problems.extend(self.rooms.plane.problems());
        if self.progress.is_complete() {
            self.stage = self.stage.after_complete_round();
        }
        self.report_dead_backends(&mut report, now);
        self.report_problems(&mut report, &snapshot, now);
        let events = self.placements.changed(&report.observed, &snapshot);
        self.send(events);
        report.planes = self.rooms.plane.describe();
        Report { ready: self.is_ready(), desired: self.desired.clone(), facts: self.facts.clone(), ..report }
    }

    fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Adds the dead backends to the report, and says which have died or are back.
    fn report_dead_backends(&mut self, report: &mut Report, now: Instant) {
        let mut failed = self.rooms.plane.failed_backends();
        retain_used(&mut failed, &report.observed.frontends);
        let lines = self.dead_backends.follow(&failed, &report.observed.frontends, now);
        lines.iter().for_each(dead_backends::Line::write);
        report.problems.extend(self.dead_backends.problems());
        self.metrics.show_failed(&failed);
        report.failed_backends = failed;
    }

    /// Adds what the loop itself found to the report's problems, logs what has begun or
    /// ended, and sends Events for those that are new.
    fn report_problems(&mut self, report: &mut Report, snapshot: &Snapshot, now: Instant) {
        bound(&mut report.problems);
        let failing = self.machine.failing(|key| owners(&self.desired, key));
        let conflicts = conflicts(self.rooms.addresses.conflicts(), &self.desired);
        let failed = failing.iter().map(|failing| &failing.problem);
        let all = report.problems.iter().chain(failed).chain(&conflicts);
        let events = self.reporter.problems(all.clone(), snapshot, &self.desired, now);
        self.problem_log.changes(all, now).iter().for_each(Line::write);
        // Bounded by themselves: mistakes in objects, however many, hide nothing that fails.
        let mut failing: Vec<Problem> = failing.into_iter().map(Failing::shown).chain(conflicts).collect();
        bound(&mut failing);
        report.problems.extend(failing);
        self.metrics.show(&self.desired, &report.observed, &report.problems);
        self.send(events);
    }

    /// Sends an Event for each Service that lost its status without a write of
    /// ours: when its type changes, the API server clears it.
    fn report_cleared(&mut self, before: &State, published: &Statuses, snapshot: &Snapshot) {
        let nothing = PublishedStatus::default();
        for (name, status) in &before.statuses {
            let Some(service) = snapshot.services.get(name) else { continue };
            let is_empty =
                |statuses: &Statuses| statuses.get(name).is_none_or(|status| status.vips.is_empty());
            if is_empty(&self.desired.statuses) && is_empty(published) {
                self.send(Reporter::written(name, &service.uid, status, &nothing));
            }
        }
    }
}

/// What Services have now. What was decided last counts before what is
/// published, because its write may still be running.
fn held(decided: &State, published: &Statuses) -> Held {
    let known = published.iter().chain(&decided.statuses);
    known
        .filter(|(_, status)| !status.is_empty())
        .map(|(name, status)| (name.clone(), status.clone()))
        .collect()
}
