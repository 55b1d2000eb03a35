// SPDX-License-Identifier: Apache-2.0
//! What llb promises its users first: a Service of type LoadBalancer is served as soon as it is applied, and
//! nothing is left of it when it is deleted.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use llb_tests::client;
use llb_tests::wait::holds_throughout;
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT, QUIET, backends_in};

/// The Service as users write it.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: NAME
  labels: {app: echo}
spec:
  selector: {app: echo}
  ports:
  - {name: echo, port: 8888}
";

pub(crate) fn a_service_is_served_once_its_type_is_load_balancer(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&[])?;
    let own = IpAddr::V4(case.balancer.ipv4());
    let vip = case.vip(0);

    let plain = SERVICE.replace("NAME", "echo");
    case.cluster.apply(&case.namespace, &plain)?;
    holds_throughout(QUIET, "a plain Service is not served", || {
        let refused = client::connect(case.lab.client(), SocketAddr::new(own, ECHO_PORT)).is_err();
        anyhow::ensure!(refused, "{own} takes connections");
        Ok(())
    })?;

    case.cluster.apply(&case.namespace, &format!("{plain}  type: LoadBalancer\n"))?;
    case.ask_often(SocketAddr::new(own, ECHO_PORT))?;
    case.wait_for_status("echo", &[own])?;

    let with_address = SERVICE.replace("NAME", "echo5");
    let with_address = format!("{with_address}  loadBalancerIP: {vip}\n  type: LoadBalancer\n");
    case.cluster.apply(&case.namespace, &with_address)?;
    case.wait_for_status("echo5", &[vip])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    // How a user would ask.
    let answer =
        case.lab.client().output(&["curl", "-sS", "--max-time", "5", &format!("http://{vip}:8888/")])?;
    assert!(answer.starts_with("node-"), "{answer}");
    let addresses = case.balancer.addresses()?;
    assert!(addresses.contains(&format!("{vip}/24")), "the prefix of the link's subnet: {addresses:?}");
    let table = case.kubectl(&["get", "service", "echo5"])?;
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row.get(3), Some(&vip.to_string().as_str()), "EXTERNAL-IP in\n{table}");
    let status = &case.service("echo5")?["status"]["loadBalancer"];
    let port = json!({"port": 8888, "protocol": "TCP"});
    assert_eq!(*status, json!({"ingress": [{"ip": vip, "ipMode": "Proxy", "ports": [port]}]}));
    let message = case.wait_for_event("echo5", "EnsuredLoadBalancer")?;
    assert!(message.contains(&vip.to_string()), "{message}");

    case.ask_often(SocketAddr::new(own, ECHO_PORT))?;
    drop(agent);
    Ok(())
}

pub(crate) fn a_changed_port_is_followed(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&[])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;

    case.patch_service("echo", &json!({"spec": {"ports": [{"port": 9999, "targetPort": ECHO_PORT}]}}))?;
    case.ask_often(SocketAddr::new(vip, 9999))?;
    case.wait_until_refused(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_status("echo", &[vip])?;

    let before = case.service("echo")?["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
    let node_port = if before == 31_234 { 31_235 } else { 31_234 };
    let port = json!({"port": 9999, "targetPort": ECHO_PORT, "nodePort": node_port});
    case.patch_service("echo", &json!({"spec": {"ports": [port]}}))?;
    agent.wait_for_state(LIMIT, "the new nodePort to be in use", |state| {
        backends_in(state, vip).contains(&node_port.to_string())
    })?;
    case.ask_often(SocketAddr::new(vip, 9999))?;
    case.wait_for_status("echo", &[vip])
}

pub(crate) fn changing_the_type_back_removes_everything(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let _agent = case.agent(&[])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_status("echo", &[vip])?;

    case.patch_service("echo", &json!({"spec": {"type": "ClusterIP", "loadBalancerIP": null}}))?;
    case.wait_for_link(vip, false)?;
    case.wait_for_status("echo", &[])?;
    case.wait_until_refused(SocketAddr::new(vip, ECHO_PORT))
}

pub(crate) fn a_deleted_service_leaves_nothing(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let _agent = case.agent(&[])?;
    let vip = case.vip(0);
    // Two Services share a VIP; its address goes with the last one.
    case.apply_service("first", &json!({"loadBalancerIP": vip}))?;
    case.kubectl(&["annotate", "service", "first", "llb.dev/sharing-key=echo"])?;
    case.apply_service(
        "second",
        &json!({"loadBalancerIP": vip, "ports": [{"port": 9999, "targetPort": ECHO_PORT}]}),
    )?;
    case.kubectl(&["annotate", "service", "second", "llb.dev/sharing-key=echo"])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.ask_often(SocketAddr::new(vip, 9999))?;

    case.kubectl(&["delete", "service", "first"])?;
    case.wait_until_refused(SocketAddr::new(vip, ECHO_PORT))?;
    case.ask_often(SocketAddr::new(vip, 9999))?;
    case.wait_for_link(vip, true)?;

    case.kubectl(&["delete", "service", "second"])?;
    case.wait_for_link(vip, false)
}

pub(crate) fn a_service_without_endpoints_gets_its_address(case: &mut Case<'_>) -> Result<()> {
    let _agent = case.agent(&[])?;
    let services = [("cluster", case.vip(0), "Cluster"), ("local", case.vip(1), "Local")];
    for (name, vip, policy) in services {
        case.apply_service(name, &json!({"loadBalancerIP": vip, "externalTrafficPolicy": policy}))?;
        case.wait_for_status(name, &[vip])?;
        case.wait_until_refused(SocketAddr::new(vip, ECHO_PORT))?;
    }
    case.add_echo_pods(&["node-1"])?;
    for (_, vip, _) in services {
        case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    }
    case.cluster.delete_pod(&case.namespace, "echo", "node-1")?;
    for (name, vip, _) in services {
        case.wait_until_refused(SocketAddr::new(vip, ECHO_PORT))?;
        case.wait_for_link(vip, true)?;
        case.wait_for_status(name, &[vip])?;
    }
    Ok(())
}
