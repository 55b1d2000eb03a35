// SPDX-License-Identifier: Apache-2.0
//! A stand-in for the scheduler. A Pod goes to the node that it names (by a node selector, or by the affinity that the
//! DaemonSet controller writes), else to the node with the fewest Pods of the same labels. So Pods of one Deployment are
//! spread over the nodes, as those tests want that ask for anti-affinity. Resources and taints do not count.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The label of a Node with its name.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Binds Pods to nodes until the watch fails.
pub(crate) async fn run(client: Client, nodes: Vec<String>) -> Result<()> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let config = watcher::Config::default().fields("spec.nodeName=");
    let all = Api::<Pod>::all(client.clone());
    let mut unbound = Box::pin(watcher(all, config).default_backoff().applied_objects());
    while let Some(pod) = unbound.try_next().await.context("the watch of unbound Pods")? {
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let spec = pod.spec.clone().unwrap_or_default();
        let count =
            counts.entry(format!("{:?} {:?}", pod.metadata.namespace, pod.metadata.labels)).or_default();
        let node = named_node(&spec).unwrap_or_else(|| nodes[*count % nodes.len()].clone());
        if bind(&client, &pod, &node).await? {
            *count += 1;
        }
    }
    Ok(())
}

/// The node that the Pod asks for by name.
fn named_node(spec: &PodSpec) -> Option<String> {
    let selected = spec.node_selector.as_ref().and_then(|labels| labels.get(HOSTNAME).cloned());
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.into_iter().flat_map(|required| &required.node_selector_terms);
    let mut wanted = terms.flat_map(|term| {
        let fields = term.match_fields.iter().flatten().filter(|field| field.key == "metadata.name");
        fields.chain(term.match_expressions.iter().flatten().filter(|label| label.key == HOSTNAME))
    });
    selected.or_else(|| wanted.find_map(|wanted| wanted.values.as_ref()?.first().cloned()))
}

/// Whether the Pod is bound; it may be gone or bound by now.
async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<bool> {
    let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let bound: kube::Result<Value> =
        pods.create_subresource("binding", name, &PostParams::default(), &binding).await;
    match bound {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot bind Pod {namespace}/{name}")),
    }
}
