// SPDX-License-Identifier: Apache-2.0
//! The status that a kubelet reports for a Pod. Plain data.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// The status of a running Pod, as a merge patch.
pub(super) fn running(pod: &Pod, node: IpAddr, address: IpAddr, is_ready: bool) -> Value {
    let ready = if is_ready { "True" } else { "False" };
    let conditions =
        [("PodScheduled", "True"), ("Initialized", "True"), ("ContainersReady", ready), ("Ready", ready)];
    let conditions: Vec<Value> =
        conditions.iter().map(|(name, status)| json!({"type": name, "status": status})).collect();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| {
        json!({
            "name": container.name,
            "image": container.image,
            "imageID": container.image,
            "ready": is_ready,
            "started": true,
            "restartCount": 0,
            "state": {"running": {}},
        })
    });
    json!({"status": {
        "phase": "Running",
        "hostIP": node,
        "hostIPs": [{"ip": node}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    }})
}
