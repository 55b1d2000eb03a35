// SPDX-License-Identifier: Apache-2.0
//! Kubernetes objects that a kubelet would make: Nodes and Pods with a status.
//! Plain data; who sends them is in `nodes.rs`.

use std::net::IpAddr;

use serde_json::{Value, json};

/// A Node that is Ready.
pub(super) fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
    })
}

/// The status of a Node with these InternalIPs.
pub(super) fn node_status(name: &str, internal: &[IpAddr]) -> Value {
    let hostname = json!({"type": "Hostname", "address": name});
    let addresses: Vec<Value> = internal
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address.to_string()}))
        .chain([hostname])
        .collect();
    json!({"status": {"addresses": addresses, "conditions": [ready()]}})
}

/// A Pod on the address of its node (`hostNetwork`), which no kubelet has to end.
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
            // Without a node-lifecycle controller nothing evicts anyway; this keeps admission from adding its own.
            "tolerations": [{"operator": "Exists"}],
        },
    })
}

/// The status of a Pod that runs, on these addresses; `ready` or not.
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
