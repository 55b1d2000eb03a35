// SPDX-License-Identifier: Apache-2.0
//! What should be: one pure pipeline from everything that is known to the
//! whole desired [`State`]. No I/O, no clock, no error: what is wrong with an
//! object becomes a [`Problem`] and concerns that object alone.
//!
//! ```text
//! Services --claim--> who asks for which VIPs      claims.rs
//!          --allocate-> VIPs per Service           allocate.rs
//!          --backends-> backends per service port  backends.rs
//!          --place----> VIPs on links              placement.rs
//!          => State { frontends, addresses, statuses }
//! ```

mod allocate;
mod backends;
mod claims;
mod placement;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Policy;
use crate::model::{
    Backend, Facts, Family, Frontend, Mode, Port, Problem, ProblemReason, Protocol, PublishedPort,
    PublishedStatus, PublishedVip, Rule, Service, ServiceName, ServicePort, Snapshot, State, Subject,
};
use allocate::Grant;
use backends::Backends;

/// `ports[].error` of an added port that another Service has on this VIP.
const FRONTEND_COLLISION: &str = "llb.dev/FrontendCollision";

/// What Services have now: as published, or as given in an earlier round and
/// not yet published. It is kept.
pub type Held = BTreeMap<ServiceName, PublishedStatus>;

/// Everything that the desired state depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The source's objects.
    pub snapshot: &'a Snapshot,
    /// This machine.
    pub facts: &'a Facts,
    /// The configuration.
    pub policy: &'a Policy,
    /// What Services have.
    pub held: &'a Held,
}

/// The whole pipeline.
pub fn compile(inputs: Inputs<'_>) -> (State, Vec<Problem>) {
    // llb's own addresses may be thousands, and nearly all questions are about
    // the machine's, which are few.
    let known = inputs.facts.links.iter().flat_map(|link| &link.addresses);
    let on_links: HashSet<IpAddr> = known.map(|known| known.net.addr()).collect();
    let machine = inputs.facts.without_ours();
    let inputs = Inputs { facts: &machine, ..inputs };

    let mut problems = problems_of_ours(inputs);
    let mut state = State::default();
    for (name, service) in ours(inputs) {
        // Until shown otherwise it is refused, and a refused Service has an empty status.
        state.statuses.insert(name.clone(), PublishedStatus::default());
        debug_assert!(service.wants_load_balancer);
    }
    clear_what_was_held(inputs, &mut state);

    let claims = claims::collect(inputs, &on_links, &mut problems);
    let backends = backends::Selection::new(inputs);
    for Grant { name, service, vips, collisions } in allocate::allocate(inputs, claims, &mut problems) {
        let backends = backends.of_service(name, service);
        let rules = rules_of(inputs.policy, name, service, &vips, &backends);
        for (frontend, port) in frontends_of(service, &vips) {
            if !collisions.contains(&frontend)
                && let Some(rule) = rules.get(&(frontend.family(), port.port, port.protocol))
            {
                state.frontends.insert(frontend, Arc::clone(rule));
            }
        }
        let is_without = |frontend: &Frontend| {
            let rule = rules.get(&(frontend.family(), frontend.port, frontend.protocol));
            rule.is_some_and(|rule| rule.backends.is_empty())
        };
        problems.extend(backends.problems(&vips, is_without));
        let is_dsr = rules.values().any(|rule| rule.mode == Mode::Dsr);
        state.statuses.insert(name.clone(), status_of(service, &vips, &collisions, is_dsr));
    }
    cut_loops(&mut state, &mut problems);
    placement::place(inputs, &mut state, &mut problems);
    problems.sort();
    problems.dedup();
    (state, problems)
}

/// By family and port: VIPs of one family share their rules.
type Rules = HashMap<(Family, Port, Protocol), Arc<Rule>>;

fn rules_of(
    policy: &Policy,
    name: &ServiceName,
    service: &Service,
    vips: &[IpAddr],
    backends: &Backends<'_>,
) -> Rules {
    let families: BTreeSet<Family> = vips.iter().map(|&vip| Family::of(vip)).collect();
    let ports = || service.ports.iter();
    let pairs = families.into_iter().flat_map(|family| ports().map(move |port| (family, port)));
    let rule = |(family, port): (Family, &ServicePort)| {
        let rule = Rule {
            service: name.clone(),
            backends: backends.of(port, family),
            to_nodes: backends.are_nodes(port),
            mode: service.terms.mode.unwrap_or(policy.mode),
            terms: service.terms.clone(),
        };
        ((family, port.port, port.protocol), Arc::new(rule))
    };
    pairs.map(rule).collect()
}

/// What is wrong with the Services of others is theirs to tell.
fn problems_of_ours(inputs: Inputs<'_>) -> Vec<Problem> {
    let is_ours = |problem: &&Problem| match &problem.subject {
        Subject::Service(name) => {
            inputs.snapshot.services.get(name).is_some_and(|service| is_ours(inputs.policy, name, service))
        }
        _ => true,
    };
    inputs.snapshot.problems.iter().filter(is_ours).cloned().collect()
}

/// The Services that this llb serves.
fn ours(inputs: Inputs<'_>) -> impl Iterator<Item = (&ServiceName, &Service)> {
    let all = inputs.snapshot.services.iter().map(|(name, service)| (name, &**service));
    all.filter(move |(name, service)| is_ours(inputs.policy, name, service))
}

fn is_ours(policy: &Policy, name: &ServiceName, service: &Service) -> bool {
    service.wants_load_balancer && is_for_us(policy, name, service)
}

/// By class and namespace.
fn is_for_us(policy: &Policy, name: &ServiceName, service: &Service) -> bool {
    let class_fits = match &service.class {
        Some(class) => *class == policy.class,
        None => policy.default_class,
    };
    class_fits
        && (policy.namespaces.is_empty()
            || policy.namespaces.iter().any(|namespace| **namespace == *name.namespace))
}

/// A Service that is no longer of type LoadBalancer loses what llb published
/// for it. What others published is theirs to clear.
fn clear_what_was_held(inputs: Inputs<'_>, state: &mut State) {
    for (name, service) in &inputs.snapshot.services {
        let was_ours = !service.wants_load_balancer && is_for_us(inputs.policy, name, service);
        if was_ours && inputs.held.contains_key(name) {
            state.statuses.insert(name.clone(), PublishedStatus::default());
        }
    }
}

fn frontends_of<'a>(
    service: &'a Service,
    vips: &'a [IpAddr],
) -> impl Iterator<Item = (Frontend, &'a ServicePort)> {
    let frontend = |vip, port: &ServicePort| Frontend { vip, port: port.port, protocol: port.protocol };
    vips.iter().flat_map(move |&vip| service.ports.iter().map(move |port| (frontend(vip, port), port)))
}

/// A backend that is a frontend of ours would lead back to us: each connection
/// would open another one, until none is left for anybody.
fn cut_loops(state: &mut State, problems: &mut Vec<Problem>) {
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
            "its backend {backend} is a frontend of llb itself, and left out; let it name Pods or other machines"
        );
        problems.push(refuse(&rule.service, ProblemReason::InvalidValue, message));
        Arc::make_mut(rule).backends.remove(&backend);
    }
}

/// `is_dsr`: Nodes are to take packets to the VIP themselves.
fn status_of(
    service: &Service,
    vips: &[IpAddr],
    collisions: &BTreeSet<Frontend>,
    is_dsr: bool,
) -> PublishedStatus {
    let published = |&ip: &IpAddr| {
        let served = service.ports.iter().map(|port| {
            let frontend = Frontend { vip: ip, port: port.port, protocol: port.protocol };
            let error = collisions.contains(&frontend).then(|| FRONTEND_COLLISION.to_owned());
            PublishedPort { port: port.port.get(), protocol: port.protocol.to_string(), error }
        });
        let mut ports: Vec<PublishedPort> = served.chain(service.unsupported_ports.iter().cloned()).collect();
        ports.sort();
        PublishedVip { ip, proxy: !is_dsr, ports }
    };
    PublishedStatus { vips: vips.iter().map(published).collect() }
}

/// A problem that stops one Service.
fn refuse(name: &ServiceName, reason: ProblemReason, message: impl Into<String>) -> Problem {
    Problem::of_service(name, reason, message)
}
