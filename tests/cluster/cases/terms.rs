// SPDX-License-Identifier: Apache-2.0
//! What a Service can ask for its traffic with fields of the Kubernetes API: llb does it, follows changes, and
//! reports what it cannot do.

use std::net::SocketAddr;

use anyhow::Result;
use llb_tests::{client, wait_until};
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT};

pub(crate) fn source_ranges_and_affinity_are_applied(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    // Directly to the endpoints, because kube-proxy has its own affinity.
    let _agent = case.agent(&["--backends", "endpoints"])?;
    let address = SocketAddr::new(case.vip(0), ECHO_PORT);
    case.apply_service("echo", &json!({"loadBalancerIP": address.ip(), "sessionAffinity": "ClientIP"}))?;
    let names = case.ask_often(address)?;
    assert_eq!(names.len(), 1, "one client has one backend: {names:?}");

    let client = case.lab.client().ipv4();
    case.patch_service("echo", &json!({"spec": {"loadBalancerSourceRanges": ["198.51.100.0/24"]}}))?;
    wait_until(LIMIT, "the client to be turned away", || {
        Ok(client::http_get(case.lab.client(), address).is_err().then_some(()))
    })?;
    let ranges = json!({"spec": {"loadBalancerSourceRanges": [format!("{client}/32")]}});
    case.patch_service("echo", &ranges)?;
    assert_eq!(case.ask_often(address)?, names, "the affinity is still remembered");

    case.patch_service("echo", &json!({"spec": {"sessionAffinity": "None", "sessionAffinityConfig": null}}))?;
    wait_until(LIMIT, "both Pods to answer", || Ok((case.ask_often(address)?.len() == 2).then_some(())))
}
