// SPDX-License-Identifier: Apache-2.0
//! Where the traffic of a service port may go.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::{Inputs, refuse};
use crate::config::BackendMode;
use crate::model::{
    Backend, Endpoint, Family, Frontend, Mode, Node, Problem, ProblemReason, Protocol, Service, ServiceName,
    ServicePort, TrafficPolicy, Weight,
};

/// Set by kubeadm and most installers on Nodes that should run no workload.
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// Selects backends; the eligible Nodes are worked out once.
pub(super) struct Selection<'a> {
    inputs: Inputs<'a>,
    nodes: OnceCell<Vec<(&'a str, &'a Node)>>,
}

/// What the backends of one Service are chosen from: its endpoints by port,
/// since a Service may have a hundred ports in one slice.
pub(super) struct Backends<'a> {
    selection: &'a Selection<'a>,
    name: &'a ServiceName,
    service: &'a Service,
    /// There is an EndpointSlice, even if it is empty.
    knows_endpoints: bool,
    endpoints: HashMap<(Protocol, Option<&'a str>), Vec<&'a Endpoint>>,
}

impl<'a> Selection<'a> {
    pub(super) fn new(inputs: Inputs<'a>) -> Self {
        Self { inputs, nodes: OnceCell::new() }
    }

    /// Looks through the endpoints of one Service.
    pub(super) fn of_service(&'a self, name: &'a ServiceName, service: &'a Service) -> Backends<'a> {
        let known = self.inputs.snapshot.endpoints.get(name);
        let mut endpoints: HashMap<(Protocol, Option<&str>), Vec<&Endpoint>> = HashMap::new();
        for endpoint in known.into_iter().flat_map(|endpoints| endpoints.iter()) {
            let port = (endpoint.protocol, endpoint.port_name.as_deref());
            endpoints.entry(port).or_default().push(endpoint);
        }
        Backends { selection: self, name, service, knows_endpoints: known.is_some(), endpoints }
    }

    fn uses_nodes(&self, port: &ServicePort) -> bool {
        match self.inputs.policy.backends {
            BackendMode::Nodes => true,
            BackendMode::Endpoints => false,
            BackendMode::Auto => port.node_port.is_some() && !self.inputs.snapshot.nodes.is_empty(),
        }
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
}

impl Backends<'_> {
    /// The backends of one port on VIPs of one family, which is theirs too.
    pub(super) fn of(&self, port: &ServicePort, family: Family) -> BTreeMap<Backend, Weight> {
        let addresses: Vec<(SocketAddr, Weight)> = if self.selection.uses_nodes(port) {
            self.node_addresses(port, family)
        } else {
            let of_family = |endpoint: &&&Endpoint| Family::of(endpoint.address) == family;
            let endpoints = self.endpoints(port).iter().filter(of_family).copied();
            let address = |endpoint: &Endpoint| SocketAddr::new(endpoint.address, endpoint.port.get());
            usable(endpoints).map(|endpoint| (address(endpoint), Weight::MIN)).collect()
        };
        addresses.into_iter().map(|(address, weight)| (Backend { address }, weight)).collect()
    }

    /// Whether a port leads to nodePorts.
    pub(super) fn are_nodes(&self, port: &ServicePort) -> bool {
        self.selection.uses_nodes(port)
    }

    /// Why a Service has no backends, and what they can't do for it.
    pub(super) fn problems(&self, vips: &[IpAddr], is_without: impl Fn(&Frontend) -> bool) -> Vec<Problem> {
        self.why_without(vips, is_without).into_iter().chain(self.affinity_problem()).collect()
    }

    /// kube-proxy keeps affinity too, and behind a relay all clients have the
    /// relay's address. Endpoints would be right, but llb can't know whether it
    /// reaches them: a wrong guess would cost the Service everything.
    fn affinity_problem(&self) -> Option<Problem> {
        self.service.terms.affinity_timeout?;
        if self.service.terms.mode.unwrap_or(self.selection.inputs.policy.mode) == Mode::Dsr {
            return None; // There kube-proxy sees the clients.
        }
        let port = self.service.ports.iter().find(|port| self.selection.uses_nodes(port))?;
        let message = format!(
            "sessionAffinity is ClientIP and port {}/{} goes to nodePorts, where kube-proxy takes llb for the only client: \
             each Node sends all of it to one Pod; use --backends endpoints where llb reaches the Pods, \
             or set sessionAffinity to None",
            port.port, port.protocol
        );
        Some(refuse(self.name, ProblemReason::AffinityAtNodes, message))
    }

    fn why_without(&self, vips: &[IpAddr], is_without: impl Fn(&Frontend) -> bool) -> Option<Problem> {
        let (name, selection) = (self.name, self.selection);
        for port in &self.service.ports {
            let nodes = selection.inputs.policy.backends == BackendMode::Nodes;
            if nodes && port.node_port.is_none() {
                let message = format!(
                    "port {}/{} has no nodePort (allocateLoadBalancerNodePorts: false?), and llb runs with --backends nodes; \
                     let Kubernetes allocate one, or use --backends endpoints where llb can reach the Pods",
                    port.port, port.protocol
                );
                return Some(refuse(name, ProblemReason::NoNodePort, message));
            }
            if selection.uses_nodes(port) && selection.eligible_nodes().is_empty() {
                return Some(refuse(name, ProblemReason::NoEligibleNodes, selection.no_nodes_message()));
            }
            for &vip in vips {
                let frontend = Frontend { vip, port: port.port, protocol: port.protocol };
                if is_without(&frontend) {
                    let message = format!("{frontend} has no backend: {}", self.why_none(port, frontend));
                    return Some(refuse(name, ProblemReason::NoBackends, message));
                }
            }
        }
        None
    }

    /// All that are of this port.
    fn endpoints<'e>(&'e self, port: &'e ServicePort) -> &'e [&'e Endpoint] {
        let endpoints = self.endpoints.get(&(port.protocol, port.name.as_deref()));
        endpoints.map(Vec::as_slice).unwrap_or_default()
    }

    fn node_addresses(&self, port: &ServicePort, family: Family) -> Vec<(SocketAddr, Weight)> {
        let Some(node_port) = port.node_port else { return Vec::new() };
        // Slices that exist and hold nothing usable mean: no node can answer.
        // A Service without any slice (as in a folder of manifests) says nothing.
        let usable: Vec<&Endpoint> = usable(self.endpoints(port).iter().copied()).collect();
        let mut local: BTreeMap<&str, u16> = BTreeMap::new();
        for node in usable.iter().filter_map(|endpoint| endpoint.node.as_deref()) {
            let count = local.entry(node).or_default();
            *count = count.saturating_add(1);
        }
        // With Local a Node serves by its own Pods alone, so Pods get equal
        // shares only if Nodes count as much as they have of them.
        let weight = |node: &str| match self.service.traffic_policy {
            TrafficPolicy::Cluster => (!self.knows_endpoints || !usable.is_empty()).then_some(Weight::MIN),
            TrafficPolicy::Local => local.get(node).and_then(|count| Weight::new(*count)),
        };
        let eligible = self.selection.eligible_nodes().iter();
        let serving = eligible.filter_map(|(name, node)| Some((node_address(node, family)?, weight(name)?)));
        serving.map(|(address, weight)| (SocketAddr::new(address, node_port.get()), weight)).collect()
    }

    fn why_none(&self, port: &ServicePort, frontend: Frontend) -> String {
        let family = frontend.family();
        let any_endpoint = usable(self.endpoints(port).iter().copied()).next().is_some();
        let uses_nodes = self.selection.uses_nodes(port);
        if !any_endpoint && (!uses_nodes || self.knows_endpoints) {
            "no endpoint is ready".to_owned()
        } else if !uses_nodes {
            format!("no ready endpoint has an {family} address")
        } else if self.service.traffic_policy == TrafficPolicy::Local {
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

/// The ready ones; where none is, those that still serve while they terminate (KEP-1669).
fn usable<'e>(endpoints: impl Iterator<Item = &'e Endpoint> + Clone) -> impl Iterator<Item = &'e Endpoint> {
    let any_ready = endpoints.clone().any(|endpoint| endpoint.ready);
    endpoints.filter(
        move |endpoint| {
            if any_ready { endpoint.ready } else { endpoint.serving && endpoint.terminating }
        },
    )
}
