// SPDX-License-Identifier: Apache-2.0
//! Which ports go to Nodes, and which Nodes are eligible.

use std::cell::OnceCell;
use std::net::IpAddr;

use super::inputs::Inputs;
use crate::config::BackendMode;
use crate::model::{Family, Node, ServicePort};

/// Set by kubeadm and most installers on Nodes that should run no workload.
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// The Nodes that traffic may go to; worked out once for all Services.
pub(super) struct EligibleNodes<'a> {
    inputs: Inputs<'a>,
    nodes: OnceCell<Vec<(&'a str, &'a Node)>>,
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

    /// Names and Nodes. Without a selector: all but control-plane Nodes, or all if
    /// there are no others. Readiness does not matter: removing a Node that is not
    /// ready would cut its connections (KEP-3458).
    pub(super) fn all(&self) -> &[(&'a str, &'a Node)] {
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
                "all {} Nodes are excluded by the label node.kubernetes.io/exclude-from-external-load-balancers \
                 or are being deleted; remove that label from a Node",
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
