// SPDX-License-Identifier: Apache-2.0
//! Where the traffic of a service port may go, and why it may go nowhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::frontends::frontend_of;
use super::inputs::Inputs;
use super::nodes::EligibleNodes;
use crate::config::BackendMode;
use crate::model::{
    Backend, Endpoint, Family, Frontend, Mode, Problem, ProblemReason, Protocol, Service, ServiceName,
    ServicePort, TrafficPolicy, Weight,
};

/// `ports[].error` of a port that can go to nodePorts only, and has none ...
const NO_NODE_PORT: &str = "llb.dev/NoNodePort";
/// ... and of a port without a nodePort whose Pods can't be reached.
const NO_ROUTE_TO_PODS: &str = "llb.dev/NoRouteToPods";

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
            let address = |endpoint: &Endpoint| SocketAddr::new(endpoint.address, endpoint.port.get());
            let reachable =
                self.usable(port, family).filter(|endpoint| !self.unrouted().contains(&endpoint.address));
            reachable.map(|endpoint| (address(endpoint), Weight::MIN)).collect()
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

    /// Why the traffic of a port can go nowhere for VIPs of one family, although it has endpoints or may have
    /// some: as an error for the status.
    pub(super) fn unusable(&self, port: &ServicePort, family: Family) -> Option<&'static str> {
        if self.lacks_node_port(port) {
            return Some(NO_NODE_PORT);
        }
        if self.unrouted().is_empty() || self.are_nodes(port) {
            return None;
        }
        let mut usable = self.usable(port, family).peekable();
        let has_only_unrouted =
            usable.peek().is_some() && usable.all(|endpoint| self.unrouted().contains(&endpoint.address));
        has_only_unrouted.then_some(NO_ROUTE_TO_PODS)
    }

    fn lacks_node_port(&self, port: &ServicePort) -> bool {
        self.nodes.inputs().policy.backends == BackendMode::Nodes && port.node_port.is_none()
    }

    /// The Pods that this machine has no route to.
    fn unrouted(&self) -> &'a BTreeSet<IpAddr> {
        &self.nodes.inputs().facts.host.unrouted_pods
    }

    /// A Pod of this port that can't be reached.
    fn unrouted_pod(&self, port: &ServicePort, vips: &[IpAddr]) -> Option<IpAddr> {
        if self.unrouted().is_empty() || self.are_nodes(port) {
            return None;
        }
        let families: BTreeSet<Family> = vips.iter().map(|&vip| Family::of(vip)).collect();
        let mut pods = families.into_iter().flat_map(|family| self.usable(port, family));
        pods.find(|pod| self.unrouted().contains(&pod.address)).map(|pod| pod.address)
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
            if self.lacks_node_port(port) {
                let message = format!(
                    "port {}/{} has no nodePort (allocateLoadBalancerNodePorts: false?), and llb runs with --backends nodes; \
                     let Kubernetes allocate one, or use --backends endpoints if llb can reach the Pods",
                    port.port, port.protocol
                );
                return problem(ProblemReason::NoNodePort, message);
            }
            if self.are_nodes(port) && self.nodes.are_none() {
                return problem(ProblemReason::NoEligibleNodes, self.nodes.why_none());
            }
            if let Some(pod) = self.unrouted_pod(port, vips) {
                let message = format!(
                    "port {}/{} has no nodePort (allocateLoadBalancerNodePorts: false?), and this machine has no route to its \
                     Pods ({}), or only its default route; let Kubernetes allocate a nodePort, add a route to the Pods, or \
                     use --backends endpoints if the default route leads to them",
                    port.port, port.protocol, pod
                );
                return problem(ProblemReason::NoRouteToPods, message);
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

    /// The endpoints of this port that serve VIPs of one family. kube-proxy looks at each family by
    /// itself, too.
    fn usable<'e>(&'e self, port: &'e ServicePort, family: Family) -> impl Iterator<Item = &'e Endpoint> {
        let all = self.endpoints(port).iter().copied();
        usable(all.filter(move |endpoint| Family::of(endpoint.address) == family))
    }

    fn node_addresses(&self, port: &ServicePort, family: Family) -> Vec<(SocketAddr, Weight)> {
        let Some(node_port) = port.node_port else { return Vec::new() };
        let (mut local, mut any_usable) = (BTreeMap::<&str, u16>::new(), false);
        for endpoint in self.usable(port, family) {
            any_usable = true;
            let Some(node) = endpoint.node.as_deref() else { continue };
            let count = local.entry(node).or_default();
            *count = count.saturating_add(1);
        }
        // If there are slices, and no endpoint in them is usable, no Node can answer.
        // If there are no slices (as in a folder of manifests), nothing is known.
        // With Local a Node serves only by its own Pods. Pods get equal shares if a
        // Node's weight is the number of its Pods.
        let policy = self.service.traffic_policy;
        let weight = |node: &str| match policy {
            TrafficPolicy::Cluster => (!self.knows_endpoints || any_usable).then_some(Weight::MIN),
            TrafficPolicy::Local => local.get(node).and_then(|count| Weight::new(*count)),
        };
        let eligible = self.nodes.of(policy, family).iter();
        let serving = eligible.filter_map(|(name, address)| Some((*address, weight(name)?)));
        serving.map(|(address, weight)| (SocketAddr::new(address, node_port.get()), weight)).collect()
    }

    fn why_none(&self, port: &ServicePort, frontend: Frontend) -> String {
        let family = frontend.family();
        let uses_nodes = self.are_nodes(port);
        if usable(self.endpoints(port).iter().copied()).next().is_none() {
            return match self.knows_endpoints {
                true => "no endpoint is ready".to_owned(),
                false if uses_nodes => self.why_no_node(port, family),
                false => self.why_no_endpoints(port),
            };
        }
        if self.usable(port, family).next().is_none() {
            format!("no ready endpoint has an {family} address")
        } else {
            self.why_no_node(port, family)
        }
    }

    /// Why no Node serves, although there are endpoints or nothing is known of them.
    fn why_no_node(&self, port: &ServicePort, family: Family) -> String {
        if self.service.traffic_policy == TrafficPolicy::Cluster {
            return format!("no eligible Node has an {family} address");
        }
        let mut endpoints = self.usable(port, family).peekable();
        if endpoints.peek().is_none() {
            return "externalTrafficPolicy is Local, and no endpoints are known".to_owned();
        }
        let nodes = endpoints.filter_map(|endpoint| endpoint.node.as_deref());
        let why = nodes.filter_map(|node| self.nodes.why_not(node, family)).next();
        let why = why.unwrap_or_else(|| "no ready endpoint names its Node".to_owned());
        format!("externalTrafficPolicy is Local, and no Node with a ready endpoint may serve: {why}")
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
