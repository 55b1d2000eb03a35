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

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Policy;
use crate::model::{
    Facts, Family, Frontend, Problem, ProblemReason, PublishedPort, PublishedStatus, PublishedVip, Rule,
    Service, ServiceName, Snapshot, State,
};

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
    let mut problems = inputs.snapshot.problems.clone();
    let mut state = State::default();
    for (name, service) in ours(inputs) {
        // Until shown otherwise it is refused, and a refused Service has an empty status.
        state.statuses.insert(name.clone(), PublishedStatus::default());
        debug_assert!(service.wants_load_balancer);
    }
    clear_what_was_held(inputs, &mut state);

    let claims = claims::collect(inputs, &mut problems);
    let backends = backends::Selection::new(inputs);
    for (name, vips) in allocate::allocate(inputs, claims, &mut problems) {
        let Some(service) = inputs.snapshot.services.get(&name) else { continue };
        for &vip in &vips {
            for port in &service.ports {
                let frontend = Frontend { vip, port: port.port, protocol: port.protocol };
                let backends = backends.of(&name, service, port, Family::of(vip), frontend);
                let rule = Rule { service: name.clone(), backends, terms: service.terms.clone() };
                state.frontends.insert(frontend, rule);
            }
        }
        problems.extend(backends.problems(&name, service, &vips));
        state.statuses.insert(name, status_of(service, &vips));
    }
    placement::place(inputs, &mut state, &mut problems);
    problems.sort();
    problems.dedup();
    (state, problems)
}

/// The Services that this llb serves.
fn ours(inputs: Inputs<'_>) -> impl Iterator<Item = (&ServiceName, &Service)> {
    inputs.snapshot.services.iter().filter(move |(name, service)| is_ours(inputs.policy, name, service))
}

fn is_ours(policy: &Policy, name: &ServiceName, service: &Service) -> bool {
    let class_fits = match &service.class {
        Some(class) => *class == policy.class,
        None => policy.default_class,
    };
    let namespace_fits = policy.namespaces.is_empty() || policy.namespaces.contains(&name.namespace);
    service.wants_load_balancer && class_fits && namespace_fits
}

/// A Service that is no longer of type LoadBalancer loses what llb published
/// for it. What others published is theirs to clear.
fn clear_what_was_held(inputs: Inputs<'_>, state: &mut State) {
    for (name, service) in &inputs.snapshot.services {
        if !service.wants_load_balancer && inputs.held.contains_key(name) {
            state.statuses.insert(name.clone(), PublishedStatus::default());
        }
    }
}

fn status_of(service: &Service, vips: &[IpAddr]) -> PublishedStatus {
    let served = service.ports.iter().map(|port| PublishedPort {
        port: port.port.get(),
        protocol: port.protocol.to_string(),
        error: None,
    });
    let mut ports: Vec<PublishedPort> = served.chain(service.unsupported_ports.iter().cloned()).collect();
    ports.sort();
    PublishedStatus {
        vips: vips.iter().map(|&ip| PublishedVip { ip, proxy: true, ports: ports.clone() }).collect(),
    }
}

/// A problem that stops one Service.
fn refuse(name: &ServiceName, reason: ProblemReason, message: impl Into<String>) -> Problem {
    Problem::of_service(name, reason, message)
}
