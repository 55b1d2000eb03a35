// SPDX-License-Identifier: Apache-2.0
//! Where the traffic of a service port may go, and why it may go nowhere.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::frontends::frontend_of;
use super::inputs::Inputs;
use super::nodes::{EligibleNodes, node_address};
use crate::config::BackendMode;
use crate::model::{
    Backend, Endpoint, Family, Frontend, Mode, Problem, ProblemReason, Protocol, Service, ServiceName,
    ServicePort, TrafficPolicy, Weight,
};

/// Finds the backends of one Service.
pub(super) struct ServiceBackends<'a> {
    nodes: &'a EligibleNodes<'a>,
    pub(super) name: &'a ServiceName,
    pub(super) service: &'a Service,
    /// The Service has an EndpointSlice, even if it is empty.
    knows_endpoints: bool,
    /// The Service's endpoints by port: a Service may have a hundred ports in one slice.
    endpoints: HashMap<(Protocol, Option<&'a str>), Vec<&'a Endpoint>>,
}

impl<'a> ServiceBackends<'a> {
    pub(super) fn new(nodes: &'a EligibleNodes<'a>, name: &'a ServiceName, service: &'a Service) -> Self {
        let known = nodes.inputs().snapshot.endpoints.get(name);
        let mut endpoints: HashMap<(Protocol, Option<&str>), Vec<&Endpoint>> = HashMap::new();
        for endpoint in known.into_iter().flat_map(|endpoints| endpoints.iter()) {
            let port = (endpoint.protocol, endpoint.port_name.as_deref());
            endpoints.entry(port).or_default().push(endpoint);
        }
        Self { nodes, name, service, knows_endpoints: known.is_some(), endpoints }
    }

    /// The backends of one port for VIPs of one family; they have the same family.
    pub(super) fn of(&self, port: &ServicePort, family: Family) -> BTreeMap<Backend, Weight> {
        let addresses: Vec<(SocketAddr, Weight)> = if self.are_nodes(port) {
            self.node_addresses(port, family)
        } else {
            let of_family = |endpoint: &&&Endpoint| Family::of(endpoint.address) == family;
            let endpoints = self.endpoints(port).iter().filter(of_family).copied();
            let address = |endpoint: &Endpoint| SocketAddr::new(endpoint.address, endpoint.port.get());
            usable(endpoints).map(|endpoint| (address(endpoint), Weight::MIN)).collect()
        };
        addresses.into_iter().map(|(address, weight)| (Backend { address }, weight)).collect()
    }

    pub(super) fn inputs(&self) -> Inputs<'a> {
        self.nodes.inputs()
    }

    /// Whether the backends of this port are nodePorts.
    pub(super) fn are_nodes(&self, port: &ServicePort) -> bool {
        self.nodes.serve(port)
    }

    /// Why a frontend has no backends, and which wish of the Service they cannot fulfil.
    pub(super) fn problems(&self, vips: &[IpAddr], is_without: impl Fn(&Frontend) -> bool) -> Vec<Problem> {
        self.why_without(vips, is_without).into_iter().chain(self.affinity_problem()).collect()
    }

    /// kube-proxy on the Nodes keeps affinity too, but sees llb's address as the client
    /// of all relayed traffic. Sending to endpoints would solve it, but llb cannot know
    /// whether it reaches them: a wrong guess would cut off the whole Service.
    fn affinity_problem(&self) -> Option<Problem> {
        self.service.terms.affinity_timeout?;
        if self.service.terms.mode.unwrap_or(self.nodes.inputs().policy.mode) == Mode::Dsr {
            return None; // With DSR kube-proxy sees the clients' addresses.
        }
        let port = self.service.ports.iter().find(|port| self.are_nodes(port))?;
        let message = format!(
            "sessionAffinity is ClientIP and port {}/{} goes to nodePorts, where kube-proxy sees llb as the only client, \
             so each Node sends all traffic to one Pod; use --backends endpoints if llb can reach the Pods, \
             or set sessionAffinity to None",
            port.port, port.protocol
        );
        Some(Problem::of_service(self.name, ProblemReason::AffinityAtNodes, message))
    }

    fn why_without(&self, vips: &[IpAddr], is_without: impl Fn(&Frontend) -> bool) -> Option<Problem> {
        let problem = |reason, message| Some(Problem::of_service(self.name, reason, message));
        for port in &self.service.ports {
            let nodes = self.nodes.inputs().policy.backends == BackendMode::Nodes;
            if nodes && port.node_port.is_none() {
                let message = format!(
                    "port {}/{} has no nodePort (allocateLoadBalancerNodePorts: false?), and llb runs with --backends nodes; \
                     let Kubernetes allocate one, or use --backends endpoints if llb can reach the Pods",
                    port.port, port.protocol
                );
                return problem(ProblemReason::NoNodePort, message);
            }
            if self.are_nodes(port) && self.nodes.all().is_empty() {
                return problem(ProblemReason::NoEligibleNodes, self.nodes.why_none());
            }
            for &vip in vips {
                let frontend = frontend_of(vip, port);
                if is_without(&frontend) {
                    let message = format!("{frontend} has no backend: {}", self.why_none(port, frontend));
                    return problem(ProblemReason::NoBackends, message);
                }
            }
        }
        None
    }

    /// All endpoints of this port.
    fn endpoints<'e>(&'e self, port: &'e ServicePort) -> &'e [&'e Endpoint] {
        let endpoints = self.endpoints.get(&(port.protocol, port.name.as_deref()));
        endpoints.map(Vec::as_slice).unwrap_or_default()
    }

    fn node_addresses(&self, port: &ServicePort, family: Family) -> Vec<(SocketAddr, Weight)> {
        let Some(node_port) = port.node_port else { return Vec::new() };
        // If there are slices, and no endpoint in them is usable, no Node can answer.
        // If there are no slices (as in a folder of manifests), nothing is known.
        let usable: Vec<&Endpoint> = usable(self.endpoints(port).iter().copied()).collect();
        let mut local: BTreeMap<&str, u16> = BTreeMap::new();
        for node in usable.iter().filter_map(|endpoint| endpoint.node.as_deref()) {
            let count = local.entry(node).or_default();
            *count = count.saturating_add(1);
        }
        // With Local a Node serves only by its own Pods. Pods get equal shares if a
        // Node's weight is the number of its Pods.
        let weight = |node: &str| match self.service.traffic_policy {
            TrafficPolicy::Cluster => (!self.knows_endpoints || !usable.is_empty()).then_some(Weight::MIN),
            TrafficPolicy::Local => local.get(node).and_then(|count| Weight::new(*count)),
        };
        let eligible = self.nodes.all().iter();
        let serving = eligible.filter_map(|(name, node)| Some((node_address(node, family)?, weight(name)?)));
        serving.map(|(address, weight)| (SocketAddr::new(address, node_port.get()), weight)).collect()
    }

    fn why_none(&self, port: &ServicePort, frontend: Frontend) -> String {
        let family = frontend.family();
        let any_endpoint = usable(self.endpoints(port).iter().copied()).next().is_some();
        let uses_nodes = self.are_nodes(port);
        if !any_endpoint && self.knows_endpoints {
            "no endpoint is ready".to_owned()
        } else if !any_endpoint && !uses_nodes {
            self.why_no_endpoints(port)
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

impl ServiceBackends<'_> {
    /// Why the traffic does not go to Nodes, where there are no endpoints either.
    fn why_no_endpoints(&self, port: &ServicePort) -> String {
        match (self.nodes.inputs().policy.backends, port.node_port) {
            (BackendMode::Auto, None) => {
                "no nodePort is set, and there are no endpoints; set a nodePort, or add endpoints".to_owned()
            }
            (BackendMode::Auto, Some(node_port)) => format!(
                "there is no Node for nodePort {node_port}, and there are no endpoints; add a Node, or endpoints"
            ),
            (BackendMode::Nodes | BackendMode::Endpoints, _) => "there are no endpoints".to_owned(),
        }
    }
}

/// The ready endpoints; if there are none, those that still serve while they terminate (KEP-1669).
fn usable<'e>(endpoints: impl Iterator<Item = &'e Endpoint> + Clone) -> impl Iterator<Item = &'e Endpoint> {
    let any_ready = endpoints.clone().any(|endpoint| endpoint.ready);
    endpoints.filter(
        move |endpoint| {
            if any_ready { endpoint.ready } else { endpoint.serving && endpoint.terminating }
        },
    )
}
