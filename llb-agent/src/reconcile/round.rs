// SPDX-License-Identifier: Apache-2.0
//! One round: observe, decide once, settle, report.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::conditions::by_service;
use super::dead_backends::{self, retain_used};
use super::executor::RoundInput;
use super::kube_proxy;
use super::machine::Failing;
use super::owners::{conflicts, owners};
use super::problem_log::Line;
use super::progress::Stage;
use super::reconciler::Reconciler;
use super::report::Report;
use super::reporter::Reporter;
use crate::addresses::AddressTable;
use crate::config::Policy;
use crate::dataplane::DataPlane;
use crate::desired::{self, Held, Inputs};
use crate::model::{
    Problem, ProblemReason, PublishedStatus, Role, ServiceName, Snapshot, SourceReport, State, Subject, bound,
};
use crate::status::StatusSink;

/// What the statuses of Services say.
type Statuses = BTreeMap<ServiceName, PublishedStatus>;

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// One round: decides once, then plans and acts until nothing is due. `now`
    /// is the time by which retries are measured.
    pub async fn round(&mut self, source: &SourceReport, now: Instant) -> Report {
        let mut report = Report { problems: source.problems.clone(), ..Report::default() };
        report.problems.extend_from_slice(&self.configuration_problems);
        report.problems.extend(self.adopt_policy(source));
        report.problems.extend(self.pool_problem.clone());
        self.look_for_the_writer(now);
        report.writer = self.writer.clone();
        let Some(snapshot) = source.snapshot.clone() else { return report };
        report.has_snapshot = true;
        self.metrics.rounds.inc();
        self.machine.resume_addresses();
        self.note_ended_writes(&snapshot, now);
        self.log_what_is_over(&snapshot, now);
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
        self.inherit(&observed);
        let held = held(&self.desired, &published, self.writer.writes(), &self.policy);
        let resting = self.resting.at(now);
        let verdicts = self.health.verdicts();
        let holding = self.look_at_shares(&observed);
        let inputs = Inputs {
            snapshot: &snapshot,
            facts: &self.facts,
            policy: &self.policy,
            held: &held,
            resting: &resting,
            verdicts: &verdicts,
            holding: &holding,
        };
        let (desired, found) = desired::compile(inputs);
        self.health.ask(&desired.checks);
        let before = std::mem::replace(&mut self.desired, desired.into());
        self.resting.released(&before, &self.desired, now, self.policy.vip_rest);
        self.report_cleared(&before, &published, &snapshot);
        report.problems.extend(found);
        self.ask_rooms(&mut report);

        let known = report.problems.len();
        let problems: Vec<Problem> = report.problems.iter().chain(&self.found_late).cloned().collect();
        let problems = by_service(&problems);
        let input = RoundInput { snapshot: &snapshot, published: &published, problems: &problems, now };
        report.observed = self.settle(observed, input, &mut report.problems).await;
        if self.stage.is_in_charge() {
            self.rooms.plane.keep_ports(&self.desired.on_own_addresses).await;
        }
        report.problems.extend(self.rooms.plane.problems());
        if self.progress.is_complete() && self.writer.role != Role::Pending {
            self.stage = self.stage.after_complete_round();
        }
        self.tell(&mut report, known, &published, &snapshot, now);
        report.planes = self.rooms.plane.describe();
        Report { ready: self.is_ready(), desired: self.desired.clone(), facts: self.facts.clone(), ..report }
    }

    /// Adds what is wrong with the links, the Lease and keepalived, and where the shares of the group are.
    fn ask_rooms(&self, report: &mut Report) {
        report.problems.extend(self.rooms.addresses.problems());
        report.problems.extend(self.rooms.statuses.problem());
        report.problems.extend(self.membership.problems());
        report.problems.extend(self.withdrawn.clone());
        report.announce = self.policy.announce;
        report.group = self.membership.overview(&self.facts, &self.desired);
        if let Some(group) = &report.group {
            self.metrics.show_group(group);
        }
    }

    /// Logs what others have undone again and again, and do not any more.
    fn log_what_is_over(&mut self, snapshot: &Snapshot, now: Instant) {
        for service in self.overwrites.forget(snapshot, now) {
            tracing::info!(%service, "no other program overwrites this status any more");
        }
        for action in self.machine.lasting(now) {
            tracing::info!(%action, "it is not undone any more");
        }
    }

    fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Completes the report, and tells what is new in it.
    fn tell(
        &mut self,
        report: &mut Report,
        known: usize,
        published: &Statuses,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        self.report_dead_backends(report, now);
        report.problems.extend(kube_proxy::problems(snapshot, &self.facts, &report.observed));
        self.report_problems(report, known, snapshot, now);
        if self.writer.is_known() {
            let events = self.placements.changed(&report.observed, published, snapshot, now);
            self.send(events);
        }
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
    /// The first `known` problems were there before the round acted.
    fn report_problems(&mut self, report: &mut Report, known: usize, snapshot: &Snapshot, now: Instant) {
        self.found_late = report.problems.split_off(known);
        report.problems.extend_from_slice(&self.found_late);
        bound(&mut report.problems);
        let mut failing = self.machine.failing(|key| owners(&self.desired, key));
        if !self.writer.writes() && !self.membership.is_in_group() {
            // Usually the writer of the group has the VIP. If another host has it, the writer says so.
            failing.retain(|failing| failing.problem.reason != ProblemReason::VipConflict);
        }
        let mut others = conflicts(self.rooms.addresses.conflicts(), &self.desired);
        let overwritten = self.overwrites.problems();
        others.extend(overwritten.map(|(name, reason, text)| Problem::of_service(name, reason, text)));
        let failed = failing.iter().map(|failing| &failing.problem);
        let all = report.problems.iter().chain(failed).chain(&others);
        let (of_services, mut told): (Vec<&Problem>, Vec<&Problem>) =
            all.partition(|problem| is_of_service(problem));
        told.extend(self.lasting.of(of_services, now));
        self.problem_log.changes(told.iter().copied(), now).iter().for_each(Line::write);
        // Nobody knows who tells it: then it is told later.
        if self.writer.is_known() {
            let events = self.reporter.problems(told, snapshot, &self.desired, now);
            self.send(events);
        }
        self.found_late.extend(failing.iter().map(|failing| failing.problem.clone()));
        self.found_late.extend_from_slice(&others);
        // Bounded by themselves: mistakes in objects, however many, hide nothing that fails.
        let mut failing: Vec<Problem> = failing.into_iter().map(Failing::shown).chain(others).collect();
        bound(&mut failing);
        report.problems.extend(failing);
        self.metrics.show(&self.desired, &report.observed, &report.problems);
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
///
/// An agent that does not write follows the one that does. Without pools there is nothing to
/// follow: what is published is the other machine's own address.
fn held(decided: &State, published: &Statuses, writes: bool, policy: &Policy) -> Held {
    let nothing = Statuses::new();
    let (first, last) = match (writes, policy.has_no_pools()) {
        (true, _) => (published, &decided.statuses),
        (false, true) => (&nothing, &decided.statuses),
        (false, false) => (&decided.statuses, published),
    };
    // What an agent without the Lease follows must be open to Services: a foreign program may have published it.
    let is_open = |vip: IpAddr| {
        policy.pools.iter().any(|pool| pool.contains(vip))
            || policy.allow_vips.iter().any(|range| range.contains(vip))
    };
    let follows = |status: &PublishedStatus| {
        writes || policy.has_no_pools() || status.vips.iter().all(|vip| is_open(vip.ip))
    };
    let known = first.iter().chain(last.iter().filter(|(_, status)| follows(status)));
    known
        .filter(|(_, status)| !status.is_empty())
        .map(|(name, status)| (name.clone(), status.clone()))
        .collect()
}

/// Problems of Services are told when they last.
fn is_of_service(problem: &Problem) -> bool {
    matches!(problem.subject, Subject::Service(_))
}
