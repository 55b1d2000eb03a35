// SPDX-License-Identifier: Apache-2.0
//! Which backends get no new connections because a health check says so. The API decides which backends there are;
//! a check only takes some of them away, never all, and never silently.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::backends::ServiceBackends;
use crate::model::{
    Backend, Check, HealthCheck, LeftOut, Problem, ProblemReason, Protocol, ServicePort, TrafficPolicy,
    Verdict, Verdicts, Weight,
};

/// Backends named in one message.
const NAMED: usize = 3;

/// The path at which kube-proxy tells whether a Node serves a Service with externalTrafficPolicy Local.
const NODE_PATH: &str = "/";

/// The backends of a port, as the checks have them.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Those that get new connections.
    pub(super) backends: BTreeMap<Backend, Weight>,
    /// Those that fail. If all fail, all of them are in `backends`, too.
    pub(super) failing: BTreeMap<Backend, LeftOut>,
    /// All of them fail.
    all_fail: bool,
    /// What to ask.
    pub(super) checks: BTreeSet<Check>,
}

/// The checks of a backend.
struct Asked {
    /// The annotation's. Every failure counts.
    own: Option<Check>,
    /// kube-proxy's, of the Node. Silence counts only if another Node of this port answers: else nothing listens
    /// there, or a firewall is in the way.
    node: Option<Check>,
}

/// Sorts the backends of a port by the verdicts that there are.
pub(super) fn judge(
    of: &ServiceBackends<'_>,
    port: &ServicePort,
    backends: BTreeMap<Backend, Weight>,
) -> Judged {
    let inputs = of.inputs();
    let node_port = of.service.health_check_node_port.filter(|_| {
        inputs.policy.node_health && of.service.traffic_policy == TrafficPolicy::Local && of.are_nodes(port)
    });
    let how = of.service.terms.health_check.as_ref().filter(|_| port.protocol == Protocol::Tcp);
    let asked = |backend: &Backend| Asked {
        own: how.map(|how| Check { address: backend.address, how: how.clone() }),
        node: node_port.map(|node_port| Check {
            address: SocketAddr::new(backend.address.ip(), node_port.get()),
            how: HealthCheck::Http(Arc::from(NODE_PATH)),
        }),
    };
    if how.is_none() && node_port.is_none() {
        return Judged { backends, ..Judged::default() };
    }
    sort(backends, asked, inputs.verdicts)
}

fn sort(
    backends: BTreeMap<Backend, Weight>,
    asked: impl Fn(&Backend) -> Asked,
    verdicts: &Verdicts,
) -> Judged {
    let asked: BTreeMap<Backend, Asked> = backends.keys().map(|backend| (*backend, asked(backend))).collect();
    let failure = |check: &Option<Check>| match verdicts.get(check.as_ref()?) {
        Some(Verdict::Unhealthy(failure)) => Some(LeftOut { check: check.clone()?, failure: *failure }),
        _ => None,
    };
    let is_healthy = |check: &Option<Check>| {
        check.as_ref().is_some_and(|check| verdicts.get(check) == Some(&Verdict::Healthy))
    };
    let any_node_answers = asked.values().any(|asked| is_healthy(&asked.node));
    let counts = |left_out: &LeftOut| left_out.failure.is_said() || any_node_answers;
    let why = |asked: &Asked| failure(&asked.own).or_else(|| failure(&asked.node).filter(counts));
    let failing: BTreeMap<Backend, LeftOut> =
        asked.iter().filter_map(|(backend, asked)| Some((*backend, why(asked)?))).collect();
    let all_fail = !failing.is_empty() && failing.len() == backends.len();
    let used = backends.into_iter().filter(|(backend, _)| all_fail || !failing.contains_key(backend));
    let checks = asked.into_values().flat_map(|asked| [asked.own, asked.node]).flatten().collect();
    Judged { backends: used.collect(), failing, all_fail, checks }
}

/// What to say about a Service with these ports.
pub(super) fn problem(of: &ServiceBackends<'_>, judged: &[&Judged]) -> Option<Problem> {
    let failing: BTreeSet<String> = judged
        .iter()
        .flat_map(|judged| &judged.failing)
        .map(|(backend, why)| format!("{backend} ({why})"))
        .collect();
    if failing.is_empty() {
        return None;
    }
    let named = failing.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match failing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let consequence = if judged.iter().any(|judged| judged.all_fail) {
        "all backends of a port fail, so all of them are used; see whether the check asks for the right thing"
    } else {
        "they get no new connections until the check succeeds"
    };
    let message = format!("backends fail their health check: {named}{more}; {consequence}");
    Some(Problem::of_service(of.name, ProblemReason::UnhealthyBackends, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Failure;

    fn backend(last: u8) -> Backend {
        Backend { address: SocketAddr::from(([192, 0, 2, last], 30_080)) }
    }

    fn check(last: u8, port: u16) -> Check {
        Check { address: SocketAddr::from(([192, 0, 2, last], port)), how: HealthCheck::Http(Arc::from("/")) }
    }

    /// The backends 1, 2 and 3 that get new connections. `own` and `node` are the verdicts of their checks.
    fn used(own: [Option<Verdict>; 3], node: [Option<Verdict>; 3]) -> Vec<u8> {
        let mut verdicts = Verdicts::new();
        for (place, (own, node)) in own.into_iter().zip(node).enumerate() {
            let last = place as u8 + 1;
            verdicts.extend(own.map(|verdict| (check(last, 30_080), verdict)));
            verdicts.extend(node.map(|verdict| (check(last, 32_000), verdict)));
        }
        let last = |backend: &Backend| match backend.address.ip() {
            std::net::IpAddr::V4(v4) => v4.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        let asked = |backend: &Backend| Asked {
            own: Some(check(last(backend), 30_080)),
            node: Some(check(last(backend), 32_000)),
        };
        let all = [1, 2, 3].map(|number| (backend(number), Weight::MIN));
        let judged = sort(all.into(), asked, &verdicts);
        assert_eq!(judged.checks.len(), 6);
        judged.backends.keys().map(last).collect()
    }

    #[test]
    fn a_check_takes_away_some_backends_but_never_all() {
        const NONE: [Option<Verdict>; 3] = [None; 3];
        let healthy = Some(Verdict::Healthy);
        let [refused, silent, status] = [Failure::NoConnection, Failure::NoAnswer, Failure::Status(503)]
            .map(|why| Some(Verdict::Unhealthy(why)));
        for (own, node, expected) in [
            (NONE, NONE, &[1, 2, 3][..]),
            ([healthy, refused, None], NONE, &[1, 3]),
            ([silent, refused, None], NONE, &[3]),
            ([silent, refused, status], NONE, &[1, 2, 3]),
            // A Node says that it has no endpoint.
            (NONE, [status, None, None], &[2, 3]),
            // Silence: perhaps nothing listens there.
            (NONE, [refused, refused, None], &[1, 2, 3]),
            // But on another Node something does.
            (NONE, [refused, healthy, silent], &[2]),
            (NONE, [status, status, status], &[1, 2, 3]),
            ([healthy; 3], [status, healthy, healthy], &[2, 3]),
        ] {
            assert_eq!(used(own, node), expected, "{own:?} {node:?}");
        }
    }
}
