// SPDX-License-Identifier: Apache-2.0
//! VIPs that kube-proxy on this machine takes from the relay. Pure.
//!
//! kube-proxy treats a VIP as the Node's own, and sends its packets to a Pod, if the status publishes the VIP with
//! ipMode VIP. A cluster before Kubernetes 1.30 has no ipMode, and kube-proxy takes every VIP. On a Node, it sees a packet
//! before the socket of a relay does, but after llb's packet programs. So only relayed frontends are concerned.

use std::net::IpAddr;

use crate::desired::own_node;
use crate::model::{
    Facts, FrontendStatus, Observed, Phase, PlaneKind, Problem, ProblemReason, PublishedStatus, PublishedVip,
    ServiceName, Snapshot,
};
use crate::plan::frontend_of;

/// The problem of each Service whose clients kube-proxy serves in the place of the relay.
pub(super) fn problems(snapshot: &Snapshot, facts: &Facts, observed: &Observed) -> Vec<Problem> {
    let taken: Vec<_> =
        observed.statuses.iter().filter_map(|(name, status)| first_taken(name, status, observed)).collect();
    if taken.is_empty() {
        return Vec::new();
    }
    // There may be thousands of Nodes, and most agents run on none.
    let Some(node) = own_node(snapshot, facts) else { return Vec::new() };
    taken.into_iter().map(|(name, vip, untold)| problem(name, vip, untold, node)).collect()
}

/// The first VIP of the Service that kube-proxy takes, and whether the API does not tell the mode.
fn first_taken<'a>(
    name: &'a ServiceName,
    status: &PublishedStatus,
    observed: &Observed,
) -> Option<(&'a ServiceName, IpAddr, bool)> {
    let is_relayed = |status: &&FrontendStatus| {
        status.is_of(name) && status.phase == Phase::Serving && status.placement.plane != PlaneKind::Packet
    };
    let is_taken = |vip: &&PublishedVip| {
        let frontends = vip.ports.iter().filter_map(|port| frontend_of(vip.ip, port));
        let mut served = frontends.filter_map(|frontend| observed.frontends.get(&frontend));
        (!vip.proxy || status.modes_untold) && served.any(|status| is_relayed(&status))
    };
    status.vips.iter().find(is_taken).map(|vip| (name, vip.ip, status.modes_untold))
}

fn problem(name: &ServiceName, vip: IpAddr, untold: bool, node: &str) -> Problem {
    let published =
        if untold { "without ipMode, which Kubernetes before 1.30 does not know" } else { "with ipMode VIP" };
    let message = format!(
        "{vip} is published {published}, and this machine is the Node {node}: a kube-proxy on this Node takes packets to \
         the VIP before the relay sees them. If none runs here, nothing is wrong. Otherwise clients reach Pods by \
         kube-proxy's rules (with externalTrafficPolicy Local only Pods of this Node), without llb's limits, PROXY \
         protocol and metrics. Let the packet plane serve it (`llb-agent explain {name}` says why it does not), or run \
         llb on a machine that is no Node"
    );
    Problem::of_service(name, ProblemReason::TakenByKubeProxy, message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        Frontend, Link, LinkAddress, Node, Placement, Port, Protocol, PublishedPort, Rule, Terms,
    };

    const VIP: [u8; 4] = [192, 0, 2, 100];

    /// What is said if the VIP is published so and served by this plane, on a machine with this address.
    fn said(proxy: bool, modes_untold: bool, plane: PlaneKind, own: &str) -> Option<String> {
        let name = ServiceName::new("default", "web");
        let port = PublishedPort { port: 80, protocol: "TCP".to_owned(), error: None };
        let vip = PublishedVip { ip: VIP.into(), proxy, ports: vec![port] };
        let status = PublishedStatus { vips: [vip].into(), modes_untold, ..PublishedStatus::default() };
        let frontend = Frontend { vip: VIP.into(), port: Port::new(80).unwrap(), protocol: Protocol::Tcp };
        let rule = Arc::new(Rule::new(name.clone(), [].into(), Terms::default()));
        let placement = Placement { plane, ..Placement::default() };
        let served = FrontendStatus { placement, ..FrontendStatus::relayed(rule, Phase::Serving) };
        let observed = Observed {
            frontends: [(frontend, served)].into(),
            statuses: [(name, status)].into(),
            ..Observed::default()
        };
        let node = Node { internal: vec!["192.0.2.31".parse().unwrap()], ..Node::default() };
        let snapshot = Snapshot { nodes: [("node-1".to_owned(), node)].into(), ..Snapshot::default() };
        let address = LinkAddress { net: own.parse().unwrap(), ours: false, primary: true };
        let links = vec![Link { name: "eth0".to_owned(), addresses: vec![address] }];
        let problems = problems(&snapshot, &Facts { links, ..Facts::default() }, &observed);
        problems.first().map(|problem| problem.message.clone())
    }

    #[test]
    fn only_relayed_vips_that_kube_proxy_takes_on_a_node_are_named() {
        use PlaneKind::{Packet, Sockmap, Userspace};
        let (node, other) = ("192.0.2.31/24", "192.0.2.20/24");
        for (proxy, untold, plane, own, expected) in [
            (false, false, Userspace, node, Some("with ipMode VIP, and this machine is the Node node-1")),
            (false, false, Sockmap, node, Some("If none runs here, nothing is wrong")),
            (false, true, Userspace, node, Some("without ipMode, which Kubernetes before 1.30")),
            (true, false, Userspace, node, None),
            (false, false, Packet, node, None),
            (false, false, Userspace, other, None),
        ] {
            let said = said(proxy, untold, plane, own);
            let fits = match (&said, expected) {
                (Some(said), Some(expected)) => said.contains(expected),
                (said, expected) => said.is_none() == expected.is_none(),
            };
            assert!(fits, "{proxy} {untold} {plane} {own}: {said:?}");
        }
    }
}
