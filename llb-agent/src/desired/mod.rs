// SPDX-License-Identifier: Apache-2.0
//! What should be: one pure pipeline from everything that is known to the
//! whole desired [`State`]. No I/O, no clock, no error: what is wrong with an
//! object becomes a [`Problem`] and affects that object alone.
//!
//! ```text
//! Services --ours-----> Services that this llb serves    ours.rs
//!          --claim----> the VIPs that each asks for      claims.rs, permission.rs
//!          --allocate-> the VIPs that each gets          allocate.rs
//!          --routed---> those that routers can't reach are left out       routed.rs
//!          --reserve--> the frontends that each gets     reserve.rs, frontends.rs
//!          --rules----> backends for each service port   rules.rs, backends.rs, nodes.rs, health.rs
//!          --status---> what its status should say       status.rs
//!          --links----> which link each VIP is added to  links.rs
//!          --usage----> how much of each pool is used    pools.rs
//!          => State { frontends, addresses, elsewhere, statuses, pools }
//! ```

mod allocate;
mod backends;
mod claims;
mod cluster_pools;
mod frontends;
mod health;
mod inputs;
mod links;
mod nodes;
mod ours;
mod permission;
mod pod_routes;
mod pools;
mod refused;
mod reserve;
mod routed;
mod rules;
mod status;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Family, Finalizer, Problem, PublishedStatus, State};
use allocate::Grant;
use backends::ServiceBackends;
pub use cluster_pools::with_cluster_pools;
pub use inputs::{Held, Inputs};
pub use nodes::usable_nodes;
pub use ours::is_ours;
use permission::Permissions;
pub use pod_routes::{own_node, pods_that_need_routes};
use rules::Rules;

/// The whole pipeline.
pub fn compile(inputs: Inputs<'_>) -> (State, Vec<Problem>) {
    // llb's own addresses may be thousands. Nearly all questions are about the
    // machine's other addresses, which are few.
    let known = inputs.facts.all_links().flat_map(|link| &link.addresses);
    let on_links: HashSet<IpAddr> = known.map(|known| known.net.addr()).collect();
    let mut machine = inputs.facts.without_ours();
    if own_node(inputs.snapshot, &machine).is_some() {
        machine.host.unrouted_pods.clear();
    }
    let inputs = Inputs { facts: &machine, ..inputs };

    let mut problems = ours::problems_of_ours(inputs);
    let mut state = State::default();
    // The status stays empty if the Service is refused below.
    let names = ours::ours(inputs).map(|(name, _)| name).chain(ours::formerly_ours(inputs));
    state.statuses.extend(names.map(|name| (name.clone(), PublishedStatus::default())));
    state.leaving = ours::leaving(inputs).cloned().collect();
    let finalizer = if inputs.policy.finalizers { Finalizer::Ours } else { Finalizer::Absent };

    let permissions = Permissions::new(inputs);
    let claims = claims::collect(inputs, &permissions, &on_links, &mut problems);
    let nodes = nodes::EligibleNodes::new(inputs);
    for Grant { name, service, mut vips, refused } in
        allocate::allocate(inputs, &permissions, claims, &mut problems)
    {
        if !routed::retain_routable(inputs, name, &mut vips, &mut problems) {
            continue;
        }
        let backends = ServiceBackends::new(&nodes, name, service);
        let rules = Rules::new(inputs.policy, &backends, &vips);
        let granted = frontends::frontends_of(service, &vips).map(|(frontend, _)| frontend);
        for frontend in granted.filter(|frontend| !refused.contains_key(frontend)) {
            state.frontends.extend(rules.get(&frontend).map(|rule| (frontend, Arc::clone(rule))));
            state.unhealthy.extend(rules.failing(&frontend).map(|failing| (frontend, failing.clone())));
        }
        state.checks.extend(rules.checks());
        problems.extend(rules.health_problem(&backends));
        let is_without = |frontend: &_| rules.get(frontend).is_some_and(|rule| rule.backends.is_empty());
        problems.extend(backends.problems(&vips, is_without));
        let error = |port: &_, vip: &IpAddr| backends.unusable(port, Family::of(*vip));
        let status = status::status_of(service, &vips, &refused, error, rules.is_dsr(), finalizer);
        state.statuses.insert(name.clone(), status);
    }
    rules::cut_loops(&mut state, &mut problems);
    links::assign(inputs, &mut state, &mut problems);
    state.pools = pools::usage(inputs.policy, &state);
    problems.sort();
    problems.dedup();
    (state, problems)
}
