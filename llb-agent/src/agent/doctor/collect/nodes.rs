// SPDX-License-Identifier: Apache-2.0
//! Connects to Nodes by TCP, and closes at once.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use tokio::net::TcpStream;

use super::super::facts::{Answer, Reached, Source};
use super::super::policy::policy_of;
use crate::config::{BackendMode, Config, Policy};
use crate::desired::{is_ours, usable_nodes};
use crate::model::{Family, Protocol, Service, Snapshot, TrafficPolicy};

/// The most addresses of Nodes that are asked, and how many at one time.
const MOST_NODES: usize = 64;
const AT_ONCE: usize = 16;
/// Long enough that one SYN may be lost.
const LIMIT: Duration = Duration::from_millis(1500);
/// The port of the kubelet, which every Node has.
const KUBELET: u16 = 10_250;

pub(super) async fn reach(config: &Config, source: &Source) -> Reached {
    let Some(snapshot) = &source.snapshot else { return Reached::default() };
    if config.policy.backends == BackendMode::Endpoints {
        return Reached::default();
    }
    let (policy, _) = policy_of(config, source);
    let nodes = usable_nodes(snapshot, &policy);
    let all = nodes.iter().map(|(_, address)| *address).collect();
    let (service, port, asked) = match node_port(&policy, snapshot, &nodes) {
        Some(NodePort { service, port, nodes }) => (Some(service), port, nodes),
        None => (None, KUBELET, one_of_each(nodes)),
    };
    let left_out = asked.len().saturating_sub(MOST_NODES);
    let questions = asked.into_iter().take(MOST_NODES).map(|(name, address)| async move {
        let address = SocketAddr::new(address, port);
        (name, address, ask(address).await)
    });
    let answers = futures::stream::iter(questions).buffered(AT_ONCE).collect().await;
    Reached { service, answers, left_out, nodes: all }
}

/// A nodePort that every Node should serve.
#[derive(Debug, PartialEq, Eq)]
struct NodePort {
    service: String,
    port: u16,
    /// The addresses of Nodes at which it is open.
    nodes: Vec<(String, IpAddr)>,
}

/// Prefers the nodePort of a Service with ready endpoints: kube-proxy refuses connections to the others.
fn node_port(policy: &Policy, snapshot: &Snapshot, nodes: &[(String, IpAddr)]) -> Option<NodePort> {
    let ours = snapshot.services.iter().filter(|(name, service)| {
        is_ours(policy, name, service) && service.traffic_policy == TrafficPolicy::Cluster
    });
    let ports = ours.filter_map(|(name, service)| {
        let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let port = tcp.filter_map(|port| port.node_port).next()?.get();
        let families = families(policy, service);
        let has_it = |(_, address): &&(String, IpAddr)| families.contains(&Family::of(*address));
        let nodes: Vec<_> = nodes.iter().filter(has_it).cloned().collect();
        let endpoints = snapshot.endpoints.get(name);
        let is_ready = endpoints.is_some_and(|all| all.iter().any(|endpoint| endpoint.ready));
        (!nodes.is_empty()).then(|| (is_ready, NodePort { service: name.to_string(), port, nodes }))
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort_by_key(|(is_ready, _)| !is_ready);
    ports.into_iter().next().map(|(_, port)| port)
}

/// kube-proxy opens a nodePort only for the families of the Service. Manifests may name none: then VIPs decide, or else
/// the pools.
fn families(policy: &Policy, service: &Service) -> BTreeSet<Family> {
    const BOTH: [Family; 2] = [Family::V4, Family::V6];
    let named: BTreeSet<Family> = service.families.iter().copied().collect();
    let vips = service.status.addresses().into_iter().chain(service.requested_vips.iter().copied());
    let of_vips = vips.map(Family::of).collect();
    let has_pool = |family: &Family| policy.pools.iter().any(|pool| pool.has_family(*family));
    let of_pools = BOTH.into_iter().filter(has_pool).collect();
    let known = [named, of_vips, of_pools].into_iter().find(|families| !families.is_empty());
    known.unwrap_or_else(|| BOTH.into())
}

/// The first address of each Node.
fn one_of_each(nodes: Vec<(String, IpAddr)>) -> Vec<(String, IpAddr)> {
    let mut seen = BTreeSet::new();
    nodes.into_iter().filter(|(name, _)| seen.insert(name.clone())).collect()
}

async fn ask(address: SocketAddr) -> Answer {
    match tokio::time::timeout(LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Answer::Accepted,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Answer::Refused,
            io::ErrorKind::NetworkUnreachable => Answer::NoRoute,
            // HostUnreachable also comes from a host of the segment that does not answer ARP.
            _ => Answer::Silent,
        },
        Err(_) => Answer::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sample::config;
    use super::*;

    #[test]
    fn a_node_port_is_tried_in_the_families_of_its_service() {
        let vips = |addresses: &[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect();
        let found = |flags: &[&str], families: &[Family], requested: &[&str]| {
            let service = Service {
                families: families.to_vec(),
                requested_vips: vips(requested),
                ..Service::default()
            };
            super::families(&config(flags).policy, &service).into_iter().collect::<Vec<_>>()
        };
        let (v4, v6) = (Family::V4, Family::V6);
        let both = ["--pool", "192.0.2.16/28", "--pool", "2001:db8::/120"];
        assert_eq!(found(&both, &[v4], &[]), [v4], "SingleStack");
        assert_eq!(found(&both, &[v6, v4], &["192.0.2.17"]), [v4, v6]);
        assert_eq!(found(&both, &[], &["2001:db8::1"]), [v6]);
        assert_eq!(found(&both[..2], &[], &[]), [v4]);
        assert_eq!(found(&[], &[], &[]), [v4, v6]);
    }

    #[test]
    fn each_node_has_one_kubelet() {
        let nodes = [("a", "192.0.2.31"), ("b", "192.0.2.32"), ("a", "2001:db8::31")];
        let nodes = nodes.map(|(name, address)| (name.to_owned(), address.parse().unwrap()));
        assert_eq!(one_of_each(nodes.to_vec()), nodes[..2]);
    }
}
