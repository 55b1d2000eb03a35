//! Where the traffic of a service port may go.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Inputs, refuse};
use crate::config::BackendMode;
use crate::model::{
    Backend, Endpoint, Family, Frontend, Node, Problem, ProblemReason, Service, ServiceName, ServicePort,
    TrafficPolicy,
};

/// Set by kubeadm and most installers on Nodes that should run no workload.
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Selects backends; the eligible Nodes are worked out once.
pub(super) struct Selection<'a> {
    inputs: Inputs<'a>,
    nodes: OnceCell<Vec<(&'a str, &'a Node)>>,
}

impl<'a> Selection<'a> {
    pub(super) fn new(inputs: Inputs<'a>) -> Self {
        Self { inputs, nodes: OnceCell::new() }
    }

    /// The backends of one frontend, of its own family.
    pub(super) fn of(
        &self,
        name: &ServiceName,
        service: &Service,
        port: &ServicePort,
        family: Family,
        frontend: Frontend,
    ) -> BTreeSet<Backend> {
        let addresses: Vec<SocketAddr> = if self.uses_nodes(port) {
            self.node_addresses(name, service, port, family)
        } else {
            let endpoints = self.endpoints(name).iter().filter(|endpoint| serves(endpoint, port, family));
            usable(endpoints).map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port.get())).collect()
        };
        // A frontend that is its own backend would connect to itself without end.
        let sound = addresses.into_iter().filter(|&address| address != frontend.socket_address());
        sound.map(|address| Backend { address }).collect()
    }

    /// Why a Service has no backends, where that is so.
    pub(super) fn problem(&self, name: &ServiceName, service: &Service, vips: &[IpAddr]) -> Option<Problem> {
        for port in &service.ports {
            let nodes = self.inputs.policy.backends == BackendMode::Nodes;
            if nodes && port.node_port.is_none() {
                let message = format!(
                    "port {}/{} has no nodePort (allocateLoadBalancerNodePorts: false?), and llb runs with --backends nodes; \
                     let Kubernetes allocate one, or use --backends endpoints where llb can reach the Pods",
                    port.port, port.protocol
                );
                return Some(refuse(name, ProblemReason::NoNodePort, message));
            }
            if self.uses_nodes(port) && self.eligible_nodes().is_empty() {
                return Some(refuse(name, ProblemReason::NoEligibleNodes, self.no_nodes_message()));
            }
            for &vip in vips {
                let frontend = Frontend { vip, port: port.port, protocol: port.protocol };
                if self.of(name, service, port, Family::of(vip), frontend).is_empty() {
                    let message = format!(
                        "{frontend} has no backend: {}",
                        self.why_none(name, service, port, frontend)
                    );
                    return Some(refuse(name, ProblemReason::NoBackends, message));
                }
            }
        }
        None
    }

    fn uses_nodes(&self, port: &ServicePort) -> bool {
        match self.inputs.policy.backends {
            BackendMode::Nodes => true,
            BackendMode::Endpoints => false,
            BackendMode::Auto => port.node_port.is_some() && !self.inputs.snapshot.nodes.is_empty(),
        }
    }

    fn endpoints(&self, name: &ServiceName) -> &'a [Endpoint] {
        self.inputs.snapshot.endpoints.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    fn node_addresses(
        &self,
        name: &ServiceName,
        service: &Service,
        port: &ServicePort,
        family: Family,
    ) -> Vec<SocketAddr> {
        let Some(node_port) = port.node_port else { return Vec::new() };
        // Slices that exist and hold nothing usable mean: no node can answer.
        // A Service without any slice (as in a folder of manifests) says nothing.
        let of_port = || self.endpoints(name).iter().filter(|endpoint| is_of_port(endpoint, port));
        let known = self.inputs.snapshot.endpoints.contains_key(name);
        let local: BTreeSet<&str> =
            usable(of_port()).filter_map(|endpoint| endpoint.node.as_deref()).collect();
        let may_serve = |node: &str| match service.traffic_policy {
            TrafficPolicy::Cluster => !known || usable(of_port()).next().is_some(),
            TrafficPolicy::Local => local.contains(node),
        };
        let eligible = self.eligible_nodes().iter().filter(|(node, _)| may_serve(node));
        let addresses = eligible.filter_map(|(_, node)| node_address(node, family));
        addresses.map(|address| SocketAddr::new(address, node_port.get())).collect()
    }

    /// Without a selector: all but control-plane Nodes, or, where there are no
    /// others, all. Readiness does not matter: taking a Node away for it would
    /// cut its connections (KEP-3458).
    fn eligible_nodes(&self) -> &[(&'a str, &'a Node)] {
        self.nodes.get_or_init(|| {
            let all = self.inputs.snapshot.nodes.iter().map(|(name, node)| (name.as_str(), node));
            let included: Vec<_> = all.filter(|(_, node)| !node.excluded).collect();
            match &self.inputs.policy.node_selector {
                Some(selector) => {
                    included.into_iter().filter(|(_, node)| selector.matches(&node.labels)).collect()
                }
                None => {
                    let is_worker =
                        |(_, node): &&(&str, &Node)| !node.labels.contains_key(CONTROL_PLANE_LABEL);
                    let workers: Vec<_> = included.iter().filter(is_worker).copied().collect();
                    if workers.is_empty() { included } else { workers }
                }
            }
        })
    }

    fn no_nodes_message(&self) -> String {
        let nodes = &self.inputs.snapshot.nodes;
        let excluded = nodes.values().filter(|node| node.excluded).count();
        let selector = match &self.inputs.policy.node_selector {
            Some(selector) => format!(" and none of the others has the labels of --node-selector {selector}"),
            None => String::new(),
        };
        format!(
            "There are no available nodes for LoadBalancer: of {} Nodes, {excluded} are excluded by the label \
             node.kubernetes.io/exclude-from-external-load-balancers or are being deleted{selector}; \
             remove that label, or change the selector",
            nodes.len()
        )
    }

    fn why_none(
        &self,
        name: &ServiceName,
        service: &Service,
        port: &ServicePort,
        frontend: Frontend,
    ) -> String {
        let family = frontend.family();
        let any_endpoint = usable(self.endpoints(name).iter().filter(|endpoint| is_of_port(endpoint, port)))
            .next()
            .is_some();
        if !any_endpoint && (!self.uses_nodes(port) || self.inputs.snapshot.endpoints.contains_key(name)) {
            "no endpoint is ready".to_owned()
        } else if !self.uses_nodes(port) {
            format!("no ready endpoint has an {family} address other than its own")
        } else if service.traffic_policy == TrafficPolicy::Local {
            format!(
                "externalTrafficPolicy is Local, and no eligible Node with an {family} address has a ready endpoint"
            )
        } else {
            format!("no eligible Node has an {family} address")
        }
    }
}

/// InternalIP first, then ExternalIP, then the old `spec.externalID`. Only the
/// first of a kind: kube-proxy answers nodePorts on a Node's primary addresses.
fn node_address(node: &Node, family: Family) -> Option<IpAddr> {
    let addresses = node.internal.iter().chain(&node.external).chain(&node.external_id);
    addresses.copied().find(|&address| Family::of(address) == family)
}

fn is_of_port(endpoint: &Endpoint, port: &ServicePort) -> bool {
    endpoint.port_name == port.name && endpoint.protocol == port.protocol
}

fn serves(endpoint: &Endpoint, port: &ServicePort, family: Family) -> bool {
    is_of_port(endpoint, port) && Family::of(endpoint.address) == family
}

/// The ready ones; where none is, those that still serve while they terminate (KEP-1669).
fn usable<'e>(endpoints: impl Iterator<Item = &'e Endpoint> + Clone) -> impl Iterator<Item = &'e Endpoint> {
    let any_ready = endpoints.clone().any(|endpoint| endpoint.ready);
    endpoints.filter(
        move |endpoint| {
            if any_ready { endpoint.ready } else { endpoint.serving && endpoint.terminating }
        },
    )
}
