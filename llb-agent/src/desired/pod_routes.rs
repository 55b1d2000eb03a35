// SPDX-License-Identifier: Apache-2.0
//! Pods that only a route can reach. Without a nodePort the traffic of a port must go to the
//! addresses of Pods, and those of most clusters exist only inside of the cluster. Whether a
//! packet arrives there can't be known; but a machine outside that has only its default route
//! to them would most likely send them to the Internet.
//!
//! This is asked only where nobody has said where the traffic goes: `--backends endpoints` says
//! that llb reaches the Pods. A Node has the routes of its cluster, and in some clouds that is the
//! default route. An endpoint without a Node is no Pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::ours::is_ours;
use crate::config::{BackendMode, Policy};
use crate::model::{Endpoint, Facts, Node, ReservedFor, Snapshot};

/// The most Pods whose routes are looked at in one round; each costs a question to the kernel.
/// Those beyond count as reachable.
const MOST: usize = 1024;

/// The Pods whose routes matter, unless this machine is a Node.
pub fn pods_that_need_routes(snapshot: &Snapshot, policy: &Policy) -> BTreeSet<IpAddr> {
    if policy.backends != BackendMode::Auto {
        return BTreeSet::new();
    }
    let ours = snapshot.services.iter().filter(|(name, service)| is_ours(policy, name, service));
    let pods = ours.flat_map(|(name, service)| {
        let without = service.ports.iter().filter(|port| port.node_port.is_none());
        let ports: BTreeSet<_> = without.map(|port| (port.protocol, port.name.as_deref())).collect();
        let endpoints = snapshot.endpoints.get(name).into_iter().flat_map(|endpoints| endpoints.iter());
        endpoints.filter(move |endpoint| ports.contains(&(endpoint.protocol, endpoint.port_name.as_deref())))
    });
    pods.filter(|endpoint| is_pod(snapshot, endpoint)).map(|pod| pod.address).take(MOST).collect()
}

/// The Node of the cluster that this machine is, if it is one.
pub fn own_node<'a>(snapshot: &'a Snapshot, machine: &Facts) -> Option<&'a str> {
    let is_own = |address: &IpAddr| {
        machine.links.iter().any(|link| link.has_foreign(*address))
            || matches!(machine.host.reserved.get(address), Some(ReservedFor::Link(_)))
    };
    let is_this = |node: &Node| node.internal.iter().chain(&node.external).any(is_own);
    snapshot.nodes.iter().find(|(_, node)| is_this(node)).map(|(name, _)| name.as_str())
}

/// Whether the endpoint runs on a Node and has an address of its own.
fn is_pod(snapshot: &Snapshot, endpoint: &Endpoint) -> bool {
    let node = endpoint.node.as_ref().and_then(|name| snapshot.nodes.get(name));
    node.is_some_and(|node| !node.internal.iter().chain(&node.external).any(|own| *own == endpoint.address))
}
