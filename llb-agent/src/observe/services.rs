// SPDX-License-Identifier: Apache-2.0
//! A report as rows. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::differences::{Health, backends, health};
use super::history::{SharedHistory, Since};
use super::meter::Meter;
use super::rows::{BackendRow, FrontendRow, ProblemRow, ServiceRow, Services, Standing};
use super::traffic::Traffic;
use crate::dataplane::BackendStates;
use crate::model::{
    Backend, BackendState, BackendStatus, Frontend, FrontendStatus, Phase, Rule, ServiceName, Subject,
};
use crate::reconcile::Report;

/// What rows are made of.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    /// The last report.
    pub(crate) report: &'a Report,
    /// What the planes know about backends.
    pub(crate) states: &'a BackendStates,
    /// What was.
    pub(crate) history: &'a SharedHistory,
    /// The meter with the traffic.
    pub(crate) meter: &'a Meter,
    /// Over how many samples rates are averages.
    pub(crate) over: usize,
}

/// The rows of all Services, or only of one.
pub(crate) fn services(look: Look<'_>, only: Option<&ServiceName>) -> Services {
    let (report, since) = (look.report, look.history.since());
    let is_wanted = |name: &ServiceName| only.is_none_or(|only| only == name);
    let mut rows: BTreeMap<&ServiceName, ServiceRow> = BTreeMap::new();
    let observed = &report.observed.frontends;
    let all: BTreeSet<&Frontend> = observed.keys().chain(report.desired.frontends.keys()).collect();
    for frontend in all {
        let status = observed.get(frontend);
        let rule = status.and_then(|status| status.rule.as_ref());
        let Some(rule) = rule.or_else(|| report.desired.frontends.get(frontend)) else { continue };
        if is_wanted(&rule.service) {
            let row = look.frontend(*frontend, status, rule, &since);
            rows.entry(&rule.service).or_insert_with(|| empty(&rule.service)).frontends.push(row);
        }
    }
    // Also those that have nothing yet.
    for name in report.desired.statuses.keys().filter(|name| is_wanted(name)) {
        rows.entry(name).or_insert_with(|| empty(name));
    }
    for problem in &report.problems {
        if let Subject::Service(name) = &problem.subject
            && is_wanted(name)
        {
            let row =
                ProblemRow { reason: format!("{:?}", problem.reason), message: problem.message.clone() };
            rows.entry(name).or_insert_with(|| empty(name)).problems.push(row);
        }
    }
    Services {
        sequence: look.history.sequence(),
        stale: report.is_blind || !report.has_snapshot,
        services: rows.into_values().collect(),
    }
}

fn empty(name: &ServiceName) -> ServiceRow {
    ServiceRow {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        frontends: Vec::new(),
        problems: Vec::new(),
    }
}

impl Look<'_> {
    fn frontend(
        self,
        frontend: Frontend,
        status: Option<&FrontendStatus>,
        rule: &Rule,
        since: &Since,
    ) -> FrontendRow {
        let published = self.report.observed.statuses.get(&rule.service);
        let addresses = &self.report.observed.addresses;
        let own = self.report.facts.all_links().find(|link| link.has_foreign(frontend.vip));
        let link = addresses.keys().find(|key| key.address == frontend.vip).map(|key| &key.link);
        let placement = status.map(|status| &status.placement);
        FrontendRow {
            frontend: frontend.to_string(),
            standing: match status.map(|status| status.phase) {
                None => Standing::Pending,
                Some(Phase::Serving) => Standing::Serving,
                Some(Phase::Draining) => Standing::Draining,
            },
            link: link.or(own.map(|link| &link.name)).cloned(),
            published: published.is_some_and(|status| status.vips.iter().any(|vip| vip.ip == frontend.vip)),
            plane: placement.map(|placement| placement.plane.to_string()),
            mode: placement.and_then(|placement| placement.mode).map(|mode| mode.to_string()),
            why: placement.and_then(|of_it| of_it.why.as_ref()).map(ToString::to_string).unwrap_or_default(),
            traffic: self.meter.frontend(&frontend).map(|flow| Traffic::of(self.meter, flow, self.over)),
            backends: self.backends(frontend, rule, since),
        }
    }

    /// Those of the rule, those that fail a check, and those that the plane still has flows to.
    fn backends(self, frontend: Frontend, rule: &Rule, since: &Since) -> Vec<BackendRow> {
        let known: BTreeMap<Backend, BackendStatus> =
            self.states.of(&frontend).into_iter().map(|status| (status.backend, status)).collect();
        let all: BTreeSet<Backend> =
            backends(self.report, &frontend).into_iter().chain(known.keys().copied()).collect();
        all.into_iter()
            .map(|backend| self.backend((frontend, backend), rule, known.get(&backend), since))
            .collect()
    }

    fn backend(
        self,
        (frontend, backend): (Frontend, Backend),
        rule: &Rule,
        known: Option<&BackendStatus>,
        since: &Since,
    ) -> BackendRow {
        let health = health(self.report, &frontend, &backend);
        let (state, why) = match (health, known.map(|known| known.state)) {
            (Health::Dead(failure), _) => (health.name(), Some(failure.why.to_string())),
            (Health::Unhealthy(why), _) => (health.name(), Some(why.to_string())),
            (Health::Up, None | Some(BackendState::Active)) => (health.name(), None),
            (Health::Up, Some(BackendState::Draining)) => ("draining", None),
            (Health::Up, Some(BackendState::Waiting)) => ("waiting", None),
            (Health::Up, Some(BackendState::Unreachable)) => ("unreachable", None),
            (Health::Up, Some(BackendState::Removed)) => ("removed", None),
        };
        let traffic = self.meter.backend(frontend, backend);
        BackendRow {
            backend: backend.to_string(),
            state: state.to_owned(),
            since: since.of(frontend, backend, state),
            why,
            weight: rule.backends.get(&backend).map_or(0, |weight| weight.get()),
            flows: known.and_then(|known| known.flows),
            traffic: traffic.map(|flow| Traffic::of(self.meter, flow, self.over)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::clock;
    use crate::model::{
        BackendFailure, FailureReason, Port, Problem, ProblemReason, Protocol, Terms, Weight,
    };

    fn web() -> ServiceName {
        ServiceName::new("default", "web")
    }

    fn backend(octet: u8) -> Backend {
        Backend { address: ([192, 0, 2, octet], 30080).into() }
    }

    fn frontend() -> Frontend {
        Frontend { vip: [192, 0, 2, 100].into(), port: Port::new(80).unwrap(), protocol: Protocol::Tcp }
    }

    fn report() -> Report {
        let backends = [31, 32].map(|octet| (backend(octet), Weight::MIN)).into();
        let rule = Arc::new(Rule::new(web(), backends, Terms::default()));
        let mut report = Report { ready: true, has_snapshot: true, ..Report::default() };
        let status = FrontendStatus::relayed(rule, Phase::Serving);
        report.observed.frontends = [(frontend(), status)].into();
        report
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The report after one of the backends was found dead, 7 s ago.
    fn with_dead(before: &Report) -> Report {
        let failure = BackendFailure { why: FailureReason::Refused, since: clock::now_std() };
        Report { failed_backends: [(frontend(), [(backend(32), failure)].into())].into(), ..before.clone() }
    }

    fn rows(report: &Report, history: &SharedHistory, only: Option<&ServiceName>) -> Services {
        let (states, meter) = (BackendStates::default(), Meter::default());
        services(Look { report, states: &states, history, meter: &meter, over: 10 }, only)
    }

    #[test]
    fn a_backend_has_its_state_and_since_when() {
        let history = SharedHistory::default();
        let (alive, seven) = (report(), SignedDuration::from_secs(7));
        history.follow(&Report::default(), &alive, at(1_000), |_| seven);
        let dead = with_dead(&alive);
        history.follow(&alive, &dead, at(2_000), |_| seven);
        let found = rows(&dead, &history, None);
        let backends = &found.services[0].frontends[0].backends;
        let states: Vec<_> =
            backends.iter().map(|row| (row.state.as_str(), row.since.unwrap().as_second())).collect();
        assert_eq!(states, [("up", 1_000), ("dead", 1_993)]);
        assert_eq!(backends[1].why.as_deref(), Some("it refused a connection"));
        history.follow(&dead, &alive, at(3_000), |_| seven);
        let found = rows(&alive, &history, None);
        assert_eq!(found.services[0].frontends[0].backends[1].since, Some(at(3_000)));
        let told: Vec<String> = history.after(1).changes.into_iter().map(|change| change.what).collect();
        assert_eq!(
            told,
            [
                "192.0.2.100:80/TCP: backend 192.0.2.32:30080 is dead: it refused a connection",
                "192.0.2.100:80/TCP: backend 192.0.2.32:30080 answers again",
            ]
        );
    }

    #[test]
    fn a_service_that_has_only_a_problem_is_a_row() {
        let mut report = report();
        let other = ServiceName::new("default", "other");
        report.problems = vec![Problem::of_service(&other, ProblemReason::NoSubnet, "it is in no subnet")];
        let history = SharedHistory::default();
        let names: Vec<String> =
            rows(&report, &history, None).services.into_iter().map(|row| row.name).collect();
        assert_eq!(names, ["other", "web"]);
        let one = rows(&report, &history, Some(&other));
        assert_eq!((one.services.len(), one.services[0].problems[0].reason.as_str()), (1, "NoSubnet"));
        assert!(one.services[0].frontends.is_empty());
    }

    #[test]
    fn a_frontend_that_is_not_served_yet_is_pending() {
        let mut report = report();
        let (frontend, status) = std::mem::take(&mut report.observed.frontends).pop_first().unwrap();
        report.desired = Arc::new(crate::model::State {
            frontends: [(frontend, status.rule.unwrap())].into(),
            ..Default::default()
        });
        let row = &rows(&report, &SharedHistory::default(), None).services[0].frontends[0];
        assert_eq!((row.standing, row.plane.as_deref(), row.published), (Standing::Pending, None, false));
    }
}
