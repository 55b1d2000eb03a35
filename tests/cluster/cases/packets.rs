// SPDX-License-Identifier: Apache-2.0
//! The packet plane in front of real kube-proxies, which accept packets to a VIP only if the Service's status
//! says `ipMode: VIP`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, anyhow, ensure};
use llb_tests::client::http_get;
use llb_tests::wait_until;
use serde_json::{Value, json};

use crate::case::{Case, ECHO_PORT, LIMIT};

/// Requests in a row without a failure: enough to show that both nodes are asked and have all rules.
const REQUESTS: usize = 20;

pub(crate) fn nodes_answer_clients_directly_in_mode_dsr(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&["--datapath", "tc", "--at-stop", "remove"])?;
    serve(case, "local", 0, "Local", "dsr")?;
    serve(case, "cluster", 1, "Cluster", "dsr")?;
    let service_of = |line: &str| line.contains("/local\"");
    let [client, client_v6] = clients(case);
    for index in [0, 1] {
        for (vip, client) in [(case.vip(index), client), (case.vip_v6(index), client_v6)] {
            let peers = ask_often(case, vip)?;
            // kube-proxy hides the client where a node may pass the request on to another node.
            ensure!(index == 1 || peers == [client].into(), "{vip}: seen as {peers:?}");
        }
    }
    // With Cluster, a request before kube-proxy has its rules goes on in mode nat.
    let replies: Vec<String> =
        replies(&agent.get("/metrics")?).into_iter().filter(|line| service_of(line)).collect();
    ensure!(replies.is_empty(), "replies have passed the balancer: {replies:?}");

    // For the same Service, replies go through the balancer as soon as it is annotated so.
    case.kubectl(&["annotate", "--overwrite", "service", "local", "llb.dev/mode=nat"])?;
    wait_for_ip_mode(case, "local", "Proxy")?;
    let peers = ask_often(case, case.vip(0))?;
    ensure!(peers == [case.balancer.ipv4().into()].into(), "seen as {peers:?}");
    Ok(())
}

/// kube-proxy learns of a VIP or a port only from what llb publishes, and follows a second or two later.
pub(crate) fn a_new_dsr_service_loses_nothing_from_the_first_moment(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    for node in ["node-1", "node-2"] {
        let forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
        case.lab.host(node).output(&["sysctl", "-q", "-w", forward[0], forward[1]])?;
    }
    let _agent = case.agent(&["--datapath", "tc", "--at-stop", "remove", "--mode", "dsr"])?;
    lose_nothing(case, ("web", 0), json!({}))?;
    // There Pods see the client, or kube-proxy needs to: a packet that a Node sends back can't go on by mode nat.
    lose_nothing(case, ("local", 1), json!({"externalTrafficPolicy": "Local"}))?;
    lose_nothing(case, ("sticky", 2), json!({"sessionAffinity": "ClientIP"}))
}

/// Publishes a dual-stack Service on the two VIPs number `index`, and then another port of it. No request may fail
/// from the moment at which the status shows them.
fn lose_nothing(case: &Case<'_>, (name, index): (&str, u8), mut spec: Value) -> Result<()> {
    let vips = [case.vip(index), case.vip_v6(index)];
    spec["ipFamilyPolicy"] = "RequireDualStack".into();
    case.apply_service(name, &spec)?;
    case.kubectl(&["annotate", "service", name, &format!("llb.dev/vips={},{}", vips[0], vips[1])])?;
    case.wait_for_status(name, &vips)?;
    let ask = |port: u16| {
        for (number, vip) in (0..REQUESTS).flat_map(|number| vips.map(|vip| (number, vip))) {
            let answer = http_get(case.lab.client(), SocketAddr::new(vip, port));
            ensure!(answer.is_ok(), "{name}: request {number} to {vip}, port {port}: {answer:?}");
        }
        Ok(())
    };
    ask(ECHO_PORT)?;
    // Another port, with a nodePort that the nodes may not know yet, either.
    let port = ECHO_PORT + 1;
    case.patch_service(name, &json!({"spec": {"ports": [{"port": port, "targetPort": ECHO_PORT}]}}))?;
    wait_until(LIMIT, "the new port to be published", || {
        let service = case.service(name)?;
        let ports = service["status"]["loadBalancer"]["ingress"][0]["ports"].to_string();
        if ports.contains(&port.to_string()) { Ok(Some(())) } else { Err(anyhow!("{ports}")) }
    })?;
    ask(port)
}

pub(crate) fn replies_pass_the_balancer_in_mode_nat(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&["--datapath", "tc", "--at-stop", "remove"])?;
    serve(case, "nat", 0, "Local", "nat")?;
    let balancers: [IpAddr; 2] = [case.balancer.ipv4().into(), case.balancer.ipv6().into()];
    for (vip, balancer) in [case.vip(0), case.vip_v6(0)].into_iter().zip(balancers) {
        let peers = ask_often(case, vip)?;
        ensure!(peers == [balancer].into(), "{vip}: seen as {peers:?}");
    }
    ensure!(!replies(&agent.get("/metrics")?).is_empty(), "another plane served");
    Ok(())
}

/// Serves a dual-stack Service on the two VIPs number `index`, published with its mode.
fn serve(case: &Case<'_>, name: &str, index: u8, policy: &str, mode: &str) -> Result<()> {
    let vips = [case.vip(index), case.vip_v6(index)];
    case.apply_service(
        name,
        &json!({"ipFamilyPolicy": "RequireDualStack", "externalTrafficPolicy": policy}),
    )?;
    let vips_annotation = format!("llb.dev/vips={},{}", vips[0], vips[1]);
    case.kubectl(&["annotate", "service", name, &vips_annotation, &format!("llb.dev/mode={mode}")])?;
    case.wait_for_status(name, &vips)?;
    wait_for_ip_mode(case, name, if mode == "dsr" { "VIP" } else { "Proxy" })
}

fn wait_for_ip_mode(case: &Case<'_>, name: &str, wanted: &str) -> Result<()> {
    wait_until(LIMIT, &format!("ipMode {wanted} of {name}"), || {
        let service = case.service(name)?;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        let is_so = !ingress.is_empty() && ingress.iter().all(|entry| entry["ipMode"] == wanted);
        if is_so { Ok(Some(())) } else { Err(anyhow!("{ingress:?}")) }
    })
}

/// The client addresses that the servers see, once both nodes answer.
fn ask_often(case: &Case<'_>, vip: IpAddr) -> Result<BTreeSet<IpAddr>> {
    wait_until(LIMIT, &format!("{REQUESTS} answers of {vip} in a row"), || {
        let (mut names, mut peers) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..REQUESTS {
            let answer = http_get(case.lab.client(), SocketAddr::new(vip, ECHO_PORT))?;
            names.insert(answer.name);
            peers.insert(answer.peer.ip());
        }
        // A node whose kube-proxy does not know the Service yet refuses, and then gets no requests for 10 s.
        ensure!(names.len() == 2, "only {names:?} have answered");
        Ok(Some(peers))
    })
}

fn clients(case: &Case<'_>) -> [IpAddr; 2] {
    [case.lab.client().ipv4().into(), case.lab.client().ipv6().into()]
}

/// The counts of replies that are not zero.
fn replies(metrics: &str) -> Vec<String> {
    let replies = metrics.lines().filter(|line| line.contains("direction=\"reply\""));
    replies.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}
