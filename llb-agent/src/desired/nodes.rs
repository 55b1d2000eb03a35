// SPDX-License-Identifier: Apache-2.0
//! Which ports go to Nodes, and which Nodes are eligible.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::inputs::{Held, Inputs};
use crate::config::{BackendMode, Policy};
use crate::model::{Facts, Family, Holding, Node, ServicePort, Snapshot, TrafficPolicy, Verdicts};

/// Set by kubeadm and most installers on Nodes that should run no workload.
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";
/// Excludes a Node from external load balancers; read in `source/convert/node.rs`.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The Nodes that traffic may go to; worked out once for all Services.
pub(super) struct EligibleNodes<'a> {
    inputs: Inputs<'a>,
    nodes: OnceCell<NodeSets<'a>>,
}

/// Eligible Nodes by family, each with its name and its address of that family.
type NodesByFamily<'a> = BTreeMap<Family, Vec<(&'a str, IpAddr)>>;

struct NodeSets<'a> {
    cluster: NodesByFamily<'a>,
    local: NodesByFamily<'a>,
}

/// The Nodes that traffic may go to, each with its address, of both families.
pub fn usable_nodes(snapshot: &Snapshot, policy: &Policy) -> Vec<(String, IpAddr)> {
    let (facts, held, resting) = (Facts::default(), Held::new(), BTreeMap::new());
    let (verdicts, holding) = (Verdicts::new(), Holding::All);
    let inputs = Inputs {
        snapshot,
        facts: &facts,
        policy,
        held: &held,
        resting: &resting,
        verdicts: &verdicts,
        holding: &holding,
    };
    let nodes = EligibleNodes::new(inputs);
    let families = [Family::V4, Family::V6].into_iter();
    let all = families.flat_map(|family| nodes.of(TrafficPolicy::Cluster, family));
    all.map(|(name, address)| ((*name).to_owned(), *address)).collect()
}

impl<'a> EligibleNodes<'a> {
    pub(super) fn new(inputs: Inputs<'a>) -> Self {
        Self { inputs, nodes: OnceCell::new() }
    }

    pub(super) fn inputs(&self) -> Inputs<'a> {
        self.inputs
    }

    /// Whether the traffic of this port goes to nodePorts, not to endpoints.
    pub(super) fn serve(&self, port: &ServicePort) -> bool {
        match self.inputs.policy.backends {
            BackendMode::Nodes => true,
            BackendMode::Endpoints => false,
            BackendMode::Auto => port.node_port.is_some() && !self.inputs.snapshot.nodes.is_empty(),
        }
    }

    /// The Nodes that may serve VIPs of one family. Readiness does not matter: removing a Node that
    /// is not ready would cut its connections (KEP-3458).
    pub(super) fn of(&self, policy: TrafficPolicy, family: Family) -> &[(&'a str, IpAddr)] {
        self.by_family(policy).get(&family).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether no Node is eligible, whatever its addresses.
    pub(super) fn are_none(&self) -> bool {
        !self.inputs.snapshot.nodes.values().any(|node| self.may_serve(node))
    }

    fn by_family(&self, policy: TrafficPolicy) -> &NodesByFamily<'a> {
        let sets = self.nodes.get_or_init(|| self.work_out());
        match policy {
            TrafficPolicy::Cluster => &sets.cluster,
            TrafficPolicy::Local => &sets.local,
        }
    }

    /// Without a selector, traffic for any Node goes to control-plane Nodes only if there are no
    /// others. With Local a Node gets only traffic for its own Pods, wherever they run.
    fn work_out(&self) -> NodeSets<'a> {
        let mut sets = NodeSets { cluster: NodesByFamily::new(), local: NodesByFamily::new() };
        for family in [Family::V4, Family::V6] {
            let all = self.inputs.snapshot.nodes.iter();
            let selected = all.filter(|(_, node)| self.may_serve(node));
            let local: Vec<(&str, &Node, IpAddr)> = selected
                .filter_map(|(name, node)| Some((name.as_str(), node, node_address(node, family)?)))
                .collect();
            let has_selector = self.inputs.policy.node_selector.is_some();
            let is_worker = |node: &Node| has_selector || !node.labels.contains_key(CONTROL_PLANE_LABEL);
            let any_worker = local.iter().any(|(_, node, _)| is_worker(node));
            let cluster = local.iter().filter(|(_, node, _)| !any_worker || is_worker(node));
            sets.cluster.insert(family, cluster.map(|(name, _, address)| (*name, *address)).collect());
            sets.local.insert(family, local.iter().map(|(name, _, address)| (*name, *address)).collect());
        }
        sets
    }

    fn may_serve(&self, node: &Node) -> bool {
        let selector = self.inputs.policy.node_selector.as_ref();
        !node.excluded && selector.is_none_or(|selector| selector.matches(&node.labels))
    }

    /// Why a Node that has an endpoint gets no traffic for VIPs of this family; `None` if it may get some.
    pub(super) fn why_not(&self, name: &str, family: Family) -> Option<String> {
        let Some(node) = self.inputs.snapshot.nodes.get(name) else {
            return Some(format!("there is no Node {name}"));
        };
        if node.excluded {
            return Some(format!(
                "Node {name} is excluded by the label {EXCLUDE_LABEL}, or is being deleted"
            ));
        }
        match &self.inputs.policy.node_selector {
            Some(selector) if !selector.matches(&node.labels) => {
                Some(format!("Node {name} does not match --node-selector {selector}"))
            }
            _ if node_address(node, family).is_none() => Some(format!("Node {name} has no {family} address")),
            _ => None,
        }
    }

    /// Why there is none. Begins like the message of the cloud service controller.
    pub(super) fn why_none(&self) -> String {
        let nodes = &self.inputs.snapshot.nodes;
        let excluded = nodes.values().filter(|node| node.excluded).count();
        let others = nodes.len() - excluded;
        let why = match &self.inputs.policy.node_selector {
            _ if nodes.is_empty() => {
                "there is no Node at all; add one, or use --backends endpoints if llb can reach the Pods"
                    .to_owned()
            }
            Some(selector) if others > 0 => format!(
                "of {} Nodes, {excluded} are excluded, and none of the other {others} matches --node-selector {selector}; \
                 label a Node so that it matches (kubectl label node NAME KEY=VALUE), or change the selector",
                nodes.len()
            ),
            _ => format!(
                "all {} Nodes are excluded by the label {EXCLUDE_LABEL} or are being deleted; remove that label from a Node",
                nodes.len()
            ),
        };
        format!("There are no available nodes for LoadBalancer: {why}")
    }
}

/// InternalIP first, then ExternalIP, then the old `spec.externalID`. Only the
/// first of a kind: kube-proxy answers nodePorts on a Node's primary addresses.
pub(super) fn node_address(node: &Node, family: Family) -> Option<IpAddr> {
    let addresses = node.internal.iter().chain(&node.external).chain(&node.external_id);
    addresses.copied().find(|&address| Family::of(address) == family)
}
