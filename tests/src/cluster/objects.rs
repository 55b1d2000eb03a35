// SPDX-License-Identifier: Apache-2.0
//! The Kubernetes objects that a kubelet would create: Nodes, and Pods with a status. Plain data; `nodes.rs`
//! sends them.
//!
//! A green test with them does not prove that llb copes with everything that a kubelet reports: these statuses
//! are minimal and change at once.

use std::net::IpAddr;

use serde_json::{Value, json};

/// A Node object, still without a status.
pub(super) fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
    })
}

/// The status of a Ready Node with these InternalIPs.
pub(super) fn node_status(name: &str, internal: &[IpAddr]) -> Value {
    let hostname = json!({"type": "Hostname", "address": name});
    let addresses: Vec<Value> = internal
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address.to_string()}))
        .chain([hostname])
        .collect();
    json!({"status": {"addresses": addresses, "conditions": [ready()]}})
}

/// A Pod on the addresses of its node (`hostNetwork`). No kubelet has to end it.
pub(super) fn pod(name: &str, app: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {
            "nodeName": node,
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": app, "image": app}],
            // Nothing evicts Pods without a node lifecycle controller. This keeps admission from adding
            // tolerations of its own.
            "tolerations": [{"operator": "Exists"}],
        },
    })
}

/// The status of a running Pod on these addresses, ready or not.
pub(super) fn pod_status(addresses: &[IpAddr], is_ready: bool) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let condition = if is_ready { ready() } else { json!({"type": "Ready", "status": "False"}) };
    json!({"status": {
        "phase": "Running",
        "hostIP": ips.first().map(|entry| entry["ip"].clone()),
        "hostIPs": ips,
        "podIP": ips.first().map(|entry| entry["ip"].clone()),
        "podIPs": ips,
        "conditions": [condition],
    }})
}

fn ready() -> Value {
    json!({"type": "Ready", "status": "True", "reason": "Test", "message": "made by a test"})
}
