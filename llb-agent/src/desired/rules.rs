// SPDX-License-Identifier: Apache-2.0
//! The rules of a Service's frontends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::backends::ServiceBackends;
use super::health::{self, Judged};
use crate::config::Policy;
use crate::model::{
    Announce, Backend, Check, Family, Frontend, LeftOut, Mode, Port, Problem, ProblemReason, Protocol, Rule,
    Service, State, TrafficPolicy,
};

/// The rules of one Service. VIPs of one family share the rule of a port.
pub(super) struct Rules(HashMap<(Family, Port, Protocol), Judgement>);

/// The rule of a port, and what the health checks of its backends say.
struct Judgement {
    rule: Arc<Rule>,
    judged: Judged,
}

impl Rules {
    /// A rule for each port and each family of `vips`.
    pub(super) fn new(policy: &Policy, backends: &ServiceBackends<'_>, vips: &[IpAddr]) -> Self {
        let service = backends.service;
        let families: BTreeSet<Family> = vips.iter().map(|&vip| Family::of(vip)).collect();
        let is_routed = policy.announce == Announce::Routed;
        let mut rules = HashMap::new();
        for family in families {
            for port in &service.ports {
                let mode = service.terms.mode.unwrap_or(policy.mode);
                let mut judged = health::judge(backends, port, backends.of(port, family));
                let rule = Rule {
                    service: backends.name.clone(),
                    backends: std::mem::take(&mut judged.backends),
                    to_nodes: backends.are_nodes(port),
                    mode,
                    nat_instead: mode == Mode::Dsr && !is_routed && is_client_hidden(service),
                    only_dsr: mode == Mode::Dsr && is_routed,
                    terms: service.terms.clone(),
                };
                let judgement = Judgement { rule: Arc::new(rule), judged };
                rules.insert((family, port.port, port.protocol), judgement);
            }
        }
        Self(rules)
    }

    /// The rule of a frontend of this Service.
    pub(super) fn get(&self, frontend: &Frontend) -> Option<&Arc<Rule>> {
        self.of(frontend).map(|judgement| &judgement.rule)
    }

    fn of(&self, frontend: &Frontend) -> Option<&Judgement> {
        self.0.get(&(frontend.family(), frontend.port, frontend.protocol))
    }

    /// The backends of a frontend that fail a health check.
    pub(super) fn failing(&self, frontend: &Frontend) -> Option<&BTreeMap<Backend, LeftOut>> {
        self.of(frontend).map(|judgement| &judgement.judged.failing).filter(|failing| !failing.is_empty())
    }

    /// What to ask the Service's backends.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> {
        self.0.values().flat_map(|judgement| judgement.judged.checks.iter().cloned())
    }

    pub(super) fn health_problem(&self, of: &ServiceBackends<'_>) -> Option<Problem> {
        let judged: Vec<&Judged> = self.0.values().map(|judgement| &judgement.judged).collect();
        health::problem(of, &judged)
    }

    pub(super) fn is_dsr(&self) -> bool {
        self.0.values().any(|judgement| judgement.rule.mode == Mode::Dsr)
    }
}

/// Whether nothing behind a Node depends on the client's address: with Cluster, kube-proxy hides it from Pods. With
/// affinity, kube-proxy itself goes by it.
fn is_client_hidden(service: &Service) -> bool {
    service.traffic_policy == TrafficPolicy::Cluster && service.terms.affinity_timeout.is_none()
}

/// Removes backends that are frontends of ours. Such a backend would lead back to
/// llb: each connection would open another one, until no more can be opened.
pub(super) fn cut_loops(state: &mut State, problems: &mut Vec<Problem>) {
    let leads_back = |frontend: &Frontend, backend: &Backend| {
        let target = |port| Frontend { vip: backend.address.ip(), port, protocol: frontend.protocol };
        let port = Port::new(backend.address.port().into());
        port.is_some_and(|port| state.frontends.contains_key(&target(port)))
    };
    let loops_of = |(frontend, rule): (&Frontend, &Arc<Rule>)| -> Vec<(Frontend, Backend)> {
        let back = rule.backends.keys().filter(|backend| leads_back(frontend, backend));
        back.map(|backend| (*frontend, *backend)).collect()
    };
    let loops: Vec<(Frontend, Backend)> = state.frontends.iter().flat_map(loops_of).collect();
    for (frontend, backend) in loops {
        let Some(rule) = state.frontends.get_mut(&frontend) else { continue };
        let message = format!(
            "its backend {backend} is a frontend of llb itself and is left out: traffic would go round in a circle; use Pods or other machines as endpoints"
        );
        problems.push(Problem::of_service(&rule.service, ProblemReason::InvalidValue, message));
        Arc::make_mut(rule).backends.remove(&backend);
    }
}
