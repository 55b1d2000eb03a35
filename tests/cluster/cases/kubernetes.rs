// SPDX-License-Identifier: Apache-2.0
//! The steps of those LoadBalancer tests of Kubernetes that no other case goes. The conformance tests run their own
//! program; these cases are short, and run always.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use llb_tests::client::{self, Load, udp_ask_on};
use llb_tests::wait::holds_throughout;
use llb_tests::wait_until;
use serde_json::{Value, json};

use crate::case::{Case, ECHO_PORT, LIMIT, QUIET};

/// The finalizer of load balancers.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// "should handle load balancer cleanup finalizer for service"
pub(crate) fn a_service_has_its_finalizer_until_it_is_not_served(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let agent = case.agent(&["--finalizer", "on"])?;
    let vip = case.vip(0);
    let address = SocketAddr::new(vip, ECHO_PORT);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    // Somebody else's finalizer is never touched.
    let others = json!({"metadata": {"finalizers": ["example.com/other"]}});
    case.patch_service("echo", &others)?;
    case.wait_for_status("echo", &[vip])?;
    wait_for_finalizers(case, "echo", &["example.com/other", FINALIZER])?;

    case.patch_service("echo", &json!({"spec": {"type": "ClusterIP", "loadBalancerIP": null}}))?;
    wait_for_finalizers(case, "echo", &["example.com/other"])?;
    ensure!(!case.balancer.has_address(vip)?, "the finalizer went before the VIP");
    case.patch_service("echo", &json!({"spec": {"type": "LoadBalancer", "loadBalancerIP": vip}}))?;
    wait_for_finalizers(case, "echo", &["example.com/other", FINALIZER])?;
    case.patch_service("echo", &json!({"metadata": {"finalizers": [FINALIZER]}}))?;
    case.ask_often(address)?;

    // While llb does not run, the Service stays. A new agent removes everything, in one write.
    agent.kill9()?;
    case.kubectl(&["delete", "service", "echo", "--wait=false"])?;
    holds_throughout(QUIET, "the Service is kept", || case.service("echo").map(drop))?;
    let _agent = case.agent(&["--finalizer", "on"])?;
    wait_until(LIMIT, "the Service to go", || Ok(case.service("echo").is_err().then_some(())))?;
    ensure!(!case.balancer.has_address(vip)?, "the finalizer went before the VIP");
    Ok(())
}

pub(crate) fn a_finalizer_goes_when_it_is_switched_off(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let agent = case.agent(&["--finalizer", "on"])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    wait_for_finalizers(case, "echo", &[FINALIZER])?;
    // This one is not from llb.
    let spec = json!({"loadBalancerClass": "example.com/other", "ports": [{"port": 9999}]});
    case.apply_service("other", &spec)?;
    case.patch_service("other", &json!({"metadata": {"finalizers": [FINALIZER]}}))?;
    agent.kill9()?;

    // Outside of a cluster it is off by default.
    let _agent = case.agent(&[])?;
    wait_for_finalizers(case, "echo", &[])?;
    case.wait_for_status("echo", &[vip])?;
    wait_for_finalizers(case, "other", &[FINALIZER])?;
    case.patch_service("other", &json!({"metadata": {"finalizers": null}}))
}

/// "should be able to change the type and ports of a UDP service", and of the TCP one its steps without Pods.
pub(crate) fn a_udp_service_follows_its_changes(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let _agent = case.agent(&[])?;
    let vip = case.vip(0);
    let port = |port: u16| json!({"port": port, "targetPort": ECHO_PORT, "protocol": "UDP"});
    case.apply_service("echo", &json!({"loadBalancerIP": vip, "ports": [port(ECHO_PORT)]}))?;
    case.wait_for_datagram(SocketAddr::new(vip, ECHO_PORT))?;

    case.patch_service("echo", &json!({"spec": {"ports": [port(9999)]}}))?;
    let address = SocketAddr::new(vip, 9999);
    case.wait_for_datagram(address)?;
    case.wait_for_status("echo", &[vip])?;

    case.cluster.delete_pod(&case.namespace, "echo", "node-1")?;
    wait_until(LIMIT, "datagrams without an answer", || {
        Ok(client::udp_ask(case.lab.client(), address, "ping").is_err().then_some(()))
    })?;
    case.wait_for_status("echo", &[vip])?;
    case.add_echo_pods(&["node-2"])?;
    case.wait_for_datagram(address)?;

    case.patch_service("echo", &json!({"spec": {"type": "ClusterIP", "loadBalancerIP": null}}))?;
    case.wait_for_link(vip, false)?;
    case.wait_for_status("echo", &[])
}

/// "should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service on different nodes"
pub(crate) fn a_udp_client_with_one_port_follows_its_pod(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let _agent = case.agent(&[])?;
    let vip = case.vip(0);
    let port = json!({"port": ECHO_PORT, "protocol": "UDP"});
    case.apply_service("echo", &json!({"loadBalancerIP": vip, "ports": [port]}))?;
    case.wait_for_datagram(SocketAddr::new(vip, ECHO_PORT))?;
    let socket = case.lab.client().run_inside(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(SocketAddr::new(vip, ECHO_PORT))?;
    let wait_for_name = |wanted: &str| {
        wait_until(LIMIT, &format!("an answer of {wanted}"), || {
            let answer = udp_ask_on(&socket, "ping")?;
            if answer.name == wanted { Ok(Some(())) } else { Err(anyhow!("{answer:?}")) }
        })
    };
    wait_for_name("node-1")?;
    case.add_echo_pods(&["node-2"])?;
    case.cluster.delete_pod(&case.namespace, "echo", "node-1")?;
    wait_for_name("node-2")
}

/// "should be able to create LoadBalancer Service without NodePort and change it"
pub(crate) fn a_service_gets_its_node_port_later(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let _agent = case.agent(&[])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip, "allocateLoadBalancerNodePorts": false}))?;
    case.wait_for_status("echo", &[vip])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.patch_service("echo", &json!({"spec": {"allocateLoadBalancerNodePorts": true}}))?;
    ensure!(case.service("echo")?["spec"]["ports"][0]["nodePort"].is_number(), "no nodePort");
    case.wait_for_status("echo", &[vip])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT)).map(drop)
}

/// "should not have connectivity disruption during rolling update", of both policies. Kubernetes accepts that 5 % of the
/// requests fail. Here a Pod's server goes on while its Pod goes, as that of Kubernetes' tests does.
pub(crate) fn a_rolling_update_is_no_disruption(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let _agent = case.agent(&[])?;
    for (index, policy) in [(0, "Cluster"), (1, "Local")] {
        let address = SocketAddr::new(case.vip(index), ECHO_PORT);
        let name = policy.to_lowercase();
        case.apply_service(&name, &json!({"loadBalancerIP": address.ip(), "externalTrafficPolicy": policy}))?;
        case.ask_often(address)?;
        let load = Load::start(case.lab.client(), address);
        for node in ["node-1", "node-2"] {
            case.cluster.set_pod_ready(&case.namespace, "echo", node, false)?;
            wait_until(LIMIT, "only the other node to answer", || {
                let names = case.ask_often(address)?;
                Ok((!names.contains(node)).then_some(()))
            })?;
            case.cluster.set_pod_ready(&case.namespace, "echo", node, true)?;
            wait_until(LIMIT, "both nodes to answer", || {
                Ok((case.ask_often(address)?.len() == 2).then_some(()))
            })?;
        }
        let tally = load.stop()?;
        ensure!(tally.failures.len() * 20 <= tally.total(), "{policy}: {tally:?}");
    }
    Ok(())
}

fn wait_for_finalizers(case: &Case<'_>, service: &str, wanted: &[&str]) -> Result<()> {
    wait_until(LIMIT, &format!("the finalizers {wanted:?} on {service}"), || {
        let found = case.service(service)?["metadata"]["finalizers"].clone();
        let is_so = match &found {
            Value::Array(found) => {
                found.len() == wanted.len() && wanted.iter().all(|name| found.contains(&json!(name)))
            }
            _ => wanted.is_empty(),
        };
        if is_so { Ok(Some(())) } else { Err(anyhow!("{found}")) }
    })
}
