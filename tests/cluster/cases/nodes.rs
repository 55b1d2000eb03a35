// SPDX-License-Identifier: Apache-2.0
//! Nodes as backends: which of them get traffic, and from when on they do not.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT, backends_in};

pub(crate) fn a_deleted_node_stops_getting_traffic_at_once(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let agent = case.agent(&[])?;
    let vip = case.vip(0);
    let frontend = SocketAddr::new(vip, ECHO_PORT);
    let nodes = ["node-1", "node-2"].map(|name| format!("{}:", case.lab.host(name).ipv4()));
    let used = |agent: &llb_tests::Agent, wanted: [bool; 2]| {
        agent.wait_for_state(LIMIT, &format!("nodes in use: {wanted:?}"), |state| {
            let backends = backends_in(state, vip);
            nodes.each_ref().map(|node| backends.contains(node.as_str())) == wanted
        })
    };
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.ask_often(frontend)?;
    used(&agent, [true, true])?;

    case.cluster.delete_node("node-2")?;
    used(&agent, [true, false])?;
    // Nothing answers on node-2 any more, so a request to it would fail.
    case.ask_often(frontend)?;
    case.cluster.restore_node("node-2")?;
    used(&agent, [true, true])?;
    case.ask_often(frontend)?;

    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    case.kubectl(&["label", "node", "node-2", &format!("{label}=")])?;
    used(&agent, [true, false])?;
    case.kubectl(&["label", "node", "node-2", &format!("{label}-")])?;
    used(&agent, [true, true])?;
    Ok(())
}

pub(crate) fn local_policy_uses_nodes_with_a_local_endpoint(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-2"])?;
    let agent = case.agent(&[])?;
    let vip = case.vip(0);
    let frontend = SocketAddr::new(vip, ECHO_PORT);
    let [first, second] = ["node-1", "node-2"].map(|name| format!("{}:", case.lab.host(name).ipv4()));
    case.apply_service("echo", &json!({"loadBalancerIP": vip, "externalTrafficPolicy": "Local"}))?;
    agent.wait_for_state(LIMIT, "only node-2 in use", |state| {
        let backends = backends_in(state, vip);
        !backends.contains(&first) && backends.contains(&second)
    })?;
    assert_eq!(case.ask_often(frontend)?, ["node-2".to_owned()].into());

    case.add_echo_pods(&["node-1"])?;
    case.cluster.delete_pod(&case.namespace, "echo", "node-2")?;
    agent.wait_for_state(LIMIT, "only node-1 in use", |state| {
        let backends = backends_in(state, vip);
        backends.contains(&first) && !backends.contains(&second)
    })?;
    assert_eq!(case.ask_often(frontend)?, ["node-1".to_owned()].into());
    Ok(())
}

pub(crate) fn a_service_without_node_ports_is_served_by_its_endpoints(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip, "allocateLoadBalancerNodePorts": false}))?;

    let agent = case.agent(&["--backends", "nodes"])?;
    let problem = agent.wait_for_problem(LIMIT, "NoNodePort")?;
    assert!(problem.contains("--backends endpoints"), "it should say what to do: {problem}");
    let message = case.wait_for_event("echo", "SyncLoadBalancerFailed")?;
    assert!(message.contains("nodePort"), "{message}");
    agent.kill9()?;

    let _agent = case.agent(&["--backends", "auto"])?;
    let answered = case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    assert_eq!(answered.len(), 2, "both Pods are asked: {answered:?}");
    Ok(())
}
