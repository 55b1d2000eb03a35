// SPDX-License-Identifier: Apache-2.0
//! `helm install`, `helm upgrade` and `helm uninstall` on a node with a kube-proxy. `kubelet.rs` says what of a node is
//! real here, and what is not.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, anyhow, ensure};
use llb_tests::cluster::Cluster;
use llb_tests::{Host, Wrk, wait_until};
use serde_json::{Value, json};

use super::chart::chart;
use crate::case::{Case, ECHO_PORT, LIMIT};
use crate::kubelet::Kubelet;

const RELEASE: &str = "edge";
const CLASS: &str = "example.com/edge";

/// Requests that must be answered meanwhile, so that the load means something.
const REQUESTS: u64 = 100;

pub(crate) fn a_release_serves_is_upgraded_without_loss_and_leaves_nothing(
    case: &mut Case<'_>,
) -> Result<()> {
    let node = case.lab.host("node-1").clone();
    make_api_reachable(case, &node)?;
    case.cluster.kubectl(&["label", "node", "node-1", "llb.dev/edge="])?;
    case.add_echo_pods(&["node-2"])?;
    let vip = case.vip(0);
    let address = SocketAddr::new(vip, ECHO_PORT);
    case.apply_service("echo", &json!({"loadBalancerIP": vip, "loadBalancerClass": CLASS}))?;

    let mut kubelet = Kubelet::new(&node, &case.namespace)?;
    helm(case, "install", &[])?;
    rolled_out(case, &mut kubelet)?;
    case.wait_for_status("echo", &[vip])?;
    case.ask_often(address)?;
    let told = explained(case, &node)?;
    ensure!(told.contains("packet plane"), "{told}");

    let before = started(case.cluster, &case.namespace)?;
    let load = Wrk::start(case.lab.client(), address)?;
    // What docs/operations.md asks for before llb is uninstalled.
    helm(case, "upgrade", &["--set", "atStop=remove,finalizer=off"])?;
    rolled_out(case, &mut kubelet)?;
    let outcome = load.stop()?;
    ensure!(outcome.failures.is_empty(), "{outcome:?}");
    ensure!(outcome.answered > REQUESTS, "{outcome:?}");
    let after = started(case.cluster, &case.namespace)?;
    ensure!(before != after && kubelet.running() == 1, "no Pod was replaced: {before:?}, {after:?}");
    case.ask_often(address)?;

    wait_until(LIMIT, "no finalizer", || {
        Ok(case.service("echo")?["metadata"]["finalizers"].is_null().then_some(()))
    })?;
    case.cluster.helm(&["uninstall", RELEASE, "--namespace", &case.namespace])?;
    let (cluster, namespace) = (&*case.cluster, case.namespace.clone());
    kubelet
        .run_until(cluster, LIMIT, "the Pods to be gone", || Ok(started(cluster, &namespace)?.is_empty()))?;
    nothing_is_left(case, &node, vip)?;
    node.ip("route del 10.96.0.0/16 dev eth0")?;
    case.cluster.kubectl(&["delete", "endpointslice", "kubernetes"])?;
    case.cluster.kubectl(&["label", "node", "node-1", "llb.dev/edge-"]).map(drop)
}

/// The API server has no endpoints of its own Service here; a node of a real cluster reaches it by them, through its
/// kube-proxy.
fn make_api_reachable(case: &Case<'_>, node: &Host) -> Result<()> {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [case.lab.host("control").ipv4().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    });
    case.cluster.apply("default", &slice.to_string())?;
    // In the place of a node's default route.
    node.ip("route replace 10.96.0.0/16 dev eth0")?;
    wait_until(LIMIT, "kube-proxy to lead to the API server", || {
        node.output(&["curl", "--silent", "--insecure", "--max-time", "2", "https://10.96.0.1/version"])
            .map(Some)
    })
    .map(drop)
}

/// `helm install` or `helm upgrade`, with what this cluster needs.
fn helm(case: &Case<'_>, verb: &str, more: &[&str]) -> Result<()> {
    let class = format!("class={CLASS}");
    let allowed = format!("allowVips={{{}}}", case.vip(0));
    let (chart, namespace) = (chart(), &case.namespace);
    let words = [verb, RELEASE, &chart, "--namespace", namespace, "--set", "image.repository=llb"];
    let values =
        ["linkDevices={eth0}", "defaultClass=false", &class, &allowed, "backendNodeSelector=!llb.dev/edge"];
    let selected = ["--set-json", "nodeSelector={\"llb.dev/edge\":\"\"}", "--set", "datapath=tc"];
    let values: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
    case.cluster.helm(&[&words[..], &values[..], &selected[..], more].concat()).map(drop)
}

/// Plays the node until the DaemonSet controller has replaced all Pods and finds them available.
fn rolled_out(case: &Case<'_>, kubelet: &mut Kubelet) -> Result<()> {
    let (cluster, namespace) = (&*case.cluster, &case.namespace);
    kubelet.run_until(cluster, LIMIT, "the DaemonSet to be rolled out", || {
        let object = cluster.get(namespace, &["daemonset", RELEASE])?;
        let status = &object["status"];
        let is_current = status["observedGeneration"] == object["metadata"]["generation"];
        let counts = ["desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"];
        let is_out = is_current && counts.iter().all(|count| status[count] == 1);
        let pods = started(cluster, namespace)?;
        if is_out && pods.len() == 1 { Ok(true) } else { Err(anyhow!("{pods:?}: {status}")) }
    })
}

/// The names of the Pods.
fn started(cluster: &Cluster, namespace: &str) -> Result<Vec<String>> {
    let selector = ["pods", "--selector", "app.kubernetes.io/name=llb"];
    let pods = cluster.get(namespace, &selector)?;
    let names = pods["items"].as_array().context("no list")?.iter();
    Ok(names.map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect())
}

fn explained(case: &Case<'_>, node: &Host) -> Result<String> {
    let url = format!("http://127.0.0.1:9660/explain/{}/echo", case.namespace);
    node.output(&["curl", "--silent", "--show-error", "--fail", "--max-time", "5", &url])
}

fn nothing_is_left(case: &Case<'_>, node: &Host, vip: IpAddr) -> Result<()> {
    ensure!(!node.has_address(vip)?, "{vip} is still on the node");
    let pins = std::fs::read_dir(node.bpf_directory().join("llb"));
    ensure!(pins.map_or(0, Iterator::count) == 0, "pins are left");
    let role = case.cluster.kubectl(&["get", "clusterrole,clusterrolebinding", "--output=name"])?;
    ensure!(!role.lines().any(|name| name.ends_with(&format!("/{RELEASE}"))), "{role}");
    let leases = case.cluster.get("kube-system", &["leases"])?;
    let is_ours = |lease: &Value| lease["metadata"]["name"] == "example.com-edge";
    ensure!(!leases["items"].as_array().is_some_and(|all| all.iter().any(is_ours)), "{leases}");
    Ok(())
}
