// SPDX-License-Identifier: Apache-2.0
//! llb on a Node, beside its kube-proxy. kube-proxy takes packets to a VIP whose status says ipMode VIP, as it does with
//! every VIP in a cluster that has no ipMode: before the relay sees them, but after llb's programs.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use llb_tests::agent::problem;
use llb_tests::client::http_get;
use llb_tests::{Agent, Host, wait_until};
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT};

/// The Pods are on the other Node, so the packet plane can serve.
const OTHER_NODE: [&str; 2] = ["--node-selector", "kubernetes.io/hostname=node-2"];

const READER: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [''], resources: [services, nodes], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
";

/// Clients on the segment and on the Node itself, in both modes of the packet plane, and by the relay.
pub(crate) fn every_plane_serves_beside_kube_proxy(case: &mut Case<'_>) -> Result<()> {
    let node = case.lab.host("node-1").clone();
    case.add_echo_pods(&["node-2"])?;
    for (index, name) in [(0, "nat"), (1, "dsr"), (2, "relayed")] {
        case.apply_service(name, &json!({"loadBalancerIP": case.vip(index)}))?;
    }
    case.kubectl(&["annotate", "service", "dsr", "llb.dev/mode=dsr"])?;
    case.kubectl(&["annotate", "service", "relayed", "llb.dev/max-connections=1000"])?;
    let flags = ["--datapath", "tc", "--at-stop", "remove"];
    let mut agent = case.agent_on(&node, &[&flags[..], &OTHER_NODE].concat())?;
    for (index, name, plane) in [
        (0, "nat", "packet plane, nat"),
        (1, "dsr", "packet plane, dsr"),
        (2, "relayed", "relay in user space"),
    ] {
        let vip = case.vip(index);
        case.wait_for_status(name, &[vip])?;
        let address = SocketAddr::new(vip, ECHO_PORT);
        let before = agent.connections()?;
        case.ask_often(address)?;
        ensure!(agent.connections()? > before, "{name}: llb has served nobody");
        wait_until(LIMIT, &format!("{name}: an answer on the Node itself"), || {
            http_get(&node, address).map(Some)
        })?;
        let told = agent.get(&format!("/explain/{}/{name}", case.namespace))?;
        ensure!(told.contains(plane) && !told.contains("TakenByKubeProxy"), "{told}");
    }
    agent.terminate()?;
    agent.wait_exit().map(drop)
}

/// The agent may not write the status, so that it says what it would say in a cluster without ipMode.
pub(crate) fn a_relayed_vip_that_kube_proxy_takes_is_named(case: &mut Case<'_>) -> Result<()> {
    let node = case.lab.host("node-1").clone();
    case.add_echo_pods(&["node-2"])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    let kubeconfig = reader(case)?.display().to_string();
    let common = ["--kubeconfig", &kubeconfig, "--lease", "off"];

    let mut agent = Agent::start(&node, &[&common[..], &["--userspace"]].concat())?;
    wait_for_address(&node, vip)?;
    let status = json!({"status": {"loadBalancer": {"ingress": [
        {"ip": vip, "ipMode": "VIP", "ports": [{"port": ECHO_PORT, "protocol": "TCP"}]}
    ]}}});
    let patch =
        ["patch", "service", "echo", "--subresource=status", "--type=merge", "-p", &status.to_string()];
    case.kubectl(&patch)?;
    let said = agent.wait_for_problem(LIMIT, "TakenByKubeProxy")?;
    ensure!(said.contains("ipMode VIP") && said.contains("the Node node-1"), "{said}");
    let told = agent.get(&format!("/explain/{}/echo", case.namespace))?;
    ensure!(told.contains("problem TakenByKubeProxy"), "{told}");
    // Clients are served, but not by llb.
    let address = SocketAddr::new(vip, ECHO_PORT);
    wait_until(LIMIT, "kube-proxy to take the VIP", || {
        let before = agent.connections()?;
        case.ask_often(address)?;
        let after = agent.connections()?;
        if after == before { Ok(Some(())) } else { Err(anyhow!("llb served {} connections", after - before)) }
    })?;
    agent.terminate()?;
    agent.wait_exit()?;

    let flags = ["--datapath", "tc", "--at-stop", "remove"];
    let mut agent = Agent::start(&node, &[&common[..], &flags, &OTHER_NODE].concat())?;
    wait_for_address(&node, vip)?;
    wait_until(LIMIT, "the packet plane to serve before kube-proxy", || {
        let before = agent.connections()?;
        case.ask_often(address)?;
        let after = agent.connections()?;
        if after > before {
            Ok(Some(()))
        } else {
            Err(anyhow!("{}", agent.state()?["observed"]["frontends"]))
        }
    })?;
    let state = agent.state()?;
    ensure!(problem(&state, "TakenByKubeProxy").is_none(), "{}", state["problems"]);
    agent.terminate()?;
    agent.wait_exit()?;
    case.cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", "reader"]).map(drop)
}

/// The kubeconfig of an account that only reads.
fn reader(case: &Case<'_>) -> Result<PathBuf> {
    case.cluster.apply(&case.namespace, READER)?;
    case.kubectl(&["create", "serviceaccount", "reader"])?;
    let account = format!("--serviceaccount={}:reader", case.namespace);
    case.kubectl(&["create", "clusterrolebinding", "reader", "--clusterrole=reader", &account])?;
    case.cluster.write_kubeconfig("reader", &case.cluster.token(&case.namespace, "reader")?)
}

fn wait_for_address(node: &Host, vip: IpAddr) -> Result<()> {
    wait_until(LIMIT, &format!("{vip} to be on the Node"), || Ok(node.has_address(vip)?.then_some(())))
}
