// SPDX-License-Identifier: Apache-2.0
//! Which conditions the Services should have, and when they are written. Pure; the clock is an argument.
//!
//! Conditions go with every write of a status. They are written alone only if their gist (status
//! and reason) has been another one for [`PACE`]: what is over before is not told, and a backend
//! that comes and goes costs few writes. The first status of a Service waits for up to
//! [`FIRST_WAIT`] until a backend is known, so that it costs an ordinary Service no second write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::model::{
    Condition, Conditions, Frontend, MESSAGE_BYTES, Observed, Phase, Problem, ProblemReason, PublishedStatus,
    ServiceName, Snapshot, State, Subject, cut,
};
use crate::plan::{Action, frontend_of, there};

/// A change lasts for this time before it is written.
pub(super) const PACE: Duration = Duration::from_secs(10);
/// The first status waits for this time for a backend. EndpointSlices come a moment after their Service.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(2);

/// The problems of each Service.
pub(super) type ProblemsOf<'a> = BTreeMap<&'a ServiceName, Vec<&'a Problem>>;

/// Sorts problems by Service.
pub(super) fn by_service<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> ProblemsOf<'a> {
    let mut all = ProblemsOf::new();
    for problem in problems {
        if let Subject::Service(name) = &problem.subject {
            all.entry(name).or_default().push(problem);
        }
    }
    all
}

/// What conditions depend on.
pub(super) struct View<'a> {
    snapshot: &'a Snapshot,
    desired: &'a State,
    observed: &'a Observed,
    problems: &'a ProblemsOf<'a>,
    /// The VIPs that are where they should be.
    there: BTreeSet<IpAddr>,
    /// The name of this agent, for messages.
    agent: &'a str,
}

impl<'a> View<'a> {
    pub(super) fn new(
        (snapshot, problems): (&'a Snapshot, &'a ProblemsOf<'a>),
        desired: &'a State,
        observed: &'a Observed,
        agent: &'a str,
    ) -> Self {
        Self { snapshot, desired, observed, problems, there: there(desired, observed), agent }
    }

    /// The conditions that the Service should have.
    pub(super) fn conditions_of(&self, name: &ServiceName) -> Conditions {
        let is_wanted = |service: &std::sync::Arc<crate::model::Service>| service.wants_load_balancer;
        let Some(status) = self.desired.statuses.get(name) else { return Conditions::default() };
        if !self.snapshot.services.get(name).is_some_and(is_wanted) {
            return Conditions::default();
        }
        let reachable = (!status.vips.is_empty()).then(|| self.reachable(name, status));
        Conditions { programmed: Some(self.programmed(name, status)), reachable }
    }

    fn programmed(&self, name: &ServiceName, status: &PublishedStatus) -> Condition {
        if status.vips.is_empty() {
            let why = self.first_problem(name, |_| true);
            return why.unwrap_or_else(|| condition(false, "Pending", "llb has not given it a VIP yet"));
        }
        let not_there = status.vips.iter().filter(|vip| !self.there.contains(&vip.ip));
        let not_there: Vec<String> = not_there.map(|vip| vip.ip.to_string()).collect();
        if !not_there.is_empty() {
            let why = self.first_problem(name, |problem| !problem.reason.is_about_backends());
            let text = format!("{} is not on a link yet", not_there.join(", "));
            return why.unwrap_or_else(|| condition(false, "Pending", text));
        }
        let ports = status.vips.iter().flat_map(|vip| vip.ports.iter().map(move |port| (vip.ip, port)));
        let missing = ports.filter(|(ip, port)| {
            let serves = |status: &crate::model::FrontendStatus| status.phase == Phase::Serving;
            let frontend = frontend_of(*ip, port);
            port.error.is_some()
                || !frontend.is_some_and(|key| self.observed.frontends.get(&key).is_some_and(serves))
        });
        let missing: Vec<String> =
            missing.map(|(ip, port)| format!("{ip} {}/{}", port.port, port.protocol)).collect();
        if !missing.is_empty() {
            let text = format!("not served: {}", missing.join(", "));
            return condition(false, "PortsNotServed", text);
        }
        let vips: Vec<String> = status.vips.iter().map(|vip| vip.ip.to_string()).collect();
        condition(true, "Programmed", format!("{} serves {}", self.agent, vips.join(", ")))
    }

    fn reachable(&self, name: &ServiceName, status: &PublishedStatus) -> Condition {
        if let Some(why) = self.first_problem(name, |problem| problem.reason.is_about_backends()) {
            return why;
        }
        let ports = status.vips.iter().flat_map(|vip| vip.ports.iter().map(move |port| (vip.ip, port)));
        let frontends: Vec<Frontend> = ports.filter_map(|(ip, port)| frontend_of(ip, port)).collect();
        let backends = |frontend: &Frontend| self.desired.frontends.get(frontend).map(|rule| &rule.backends);
        let most = frontends.iter().filter_map(|frontend| Some(backends(frontend)?.len())).max().unwrap_or(0);
        if most == 0 {
            return condition(false, "NoBackends", "no port has a backend");
        }
        // If all backends of a port fail their health check, all are used.
        let is_unhealthy = |frontend: &Frontend| {
            let unhealthy = self.desired.unhealthy.get(frontend);
            unhealthy.is_some_and(|unhealthy| {
                backends(frontend).into_iter().flatten().all(|(backend, _)| unhealthy.contains_key(backend))
            })
        };
        if frontends.iter().all(is_unhealthy) {
            let why = self.first_problem(name, |problem| problem.reason == ProblemReason::UnhealthyBackends);
            let text = "all backends fail their health check";
            return why.unwrap_or_else(|| condition(false, "UnhealthyBackends", text));
        }
        let text = format!("{most} backends are ready, and llb has not found all of them dead");
        condition(true, "BackendsReady", text)
    }

    fn first_problem(&self, name: &ServiceName, counts: impl Fn(&Problem) -> bool) -> Option<Condition> {
        let problem = self.problems.get(name)?.iter().find(|problem| counts(problem))?;
        Some(condition(false, format!("{:?}", problem.reason), problem.message.clone()))
    }
}

/// A condition whose message is not longer than the API shows it.
fn condition(is_true: bool, reason: impl Into<String>, message: impl Into<String>) -> Condition {
    Condition::new(is_true, reason, cut(message.into(), MESSAGE_BYTES))
}

/// When conditions are written.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Services whose conditions are not those that are shown: since when.
    differs: BTreeMap<ServiceName, (Conditions, Instant)>,
    /// What is to be written in this round.
    due: BTreeMap<ServiceName, Conditions>,
    /// Services whose first status has waited or waits: since when.
    first: BTreeMap<ServiceName, Instant>,
    /// When the next of them has waited for long enough.
    next_first: Option<Instant>,
    next: Option<Instant>,
}

impl Pace {
    /// Removes the first statuses from `due` that wait for a backend.
    pub(super) fn hold_first(&mut self, due: &mut Vec<Action>, view: &View<'_>, now: Instant) {
        let mut waiting = BTreeMap::new();
        self.next_first = None;
        due.retain(|action| {
            let Action::WriteStatus { service, status } = action else { return true };
            let is_first = !view.observed.statuses.contains_key(service) && !status.vips.is_empty();
            let is_known = || view.conditions_of(service).reachable.is_some_and(|known| known.is_true);
            if !is_first || is_known() {
                return true;
            }
            let since = self.first.get(service).copied().unwrap_or(now);
            waiting.insert(service.clone(), since);
            let until = since + FIRST_WAIT;
            if now < until {
                self.next_first = Some(self.next_first.map_or(until, |next| next.min(until)));
            }
            now >= until
        });
        self.first = waiting;
    }

    /// Finds the Services whose conditions are to be written now. `shown` are those of the API.
    pub(super) fn look(&mut self, view: &View<'_>, shown: &BTreeMap<ServiceName, Conditions>, now: Instant) {
        let (mut before, nothing) = (std::mem::take(&mut self.differs), Conditions::default());
        (self.due, self.next) = (BTreeMap::new(), None);
        for name in view.desired.statuses.keys() {
            let (wanted, shown) = (view.conditions_of(name), shown.get(name).unwrap_or(&nothing));
            if wanted.says_the_same(shown) {
                continue;
            }
            let known = before.remove(name).filter(|(known, _)| known.says_the_same(&wanted));
            let since = known.map_or(now, |(_, since)| since);
            // Conditions that are too many mislead; they are removed at once.
            if wanted.is_empty() || now.saturating_duration_since(since) >= PACE {
                self.due.insert(name.clone(), wanted.clone().after(shown));
            } else {
                let at = since + PACE;
                self.next = Some(self.next.map_or(at, |next| next.min(at)));
            }
            self.differs.insert(name.clone(), (wanted, since));
        }
    }

    /// The writes that [`Pace::look`] has found.
    pub(super) fn due(&self) -> impl Iterator<Item = Action> {
        let action = |(service, conditions): (&ServiceName, &Conditions)| Action::WriteConditions {
            service: service.clone(),
            conditions: Box::new(conditions.clone()),
        };
        self.due.iter().map(action)
    }

    /// When the next conditions, or the next first status, are due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.next_first).min()
    }
}
