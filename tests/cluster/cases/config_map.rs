// SPDX-License-Identifier: Apache-2.0
//! Pools in a ConfigMap: what is served before they are known, and what a right, a wrong and a deleted one do.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};
use llb_tests::{Agent, agent, wait_until};
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT};

/// Without pools the subnets of the link would be open: `stranger` asks for an address of them in each step.
pub(crate) fn pools_of_a_config_map_are_followed_and_a_wrong_one_changes_nothing(
    case: &mut Case<'_>,
) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let [first, second, strange] = [case.vip(0), case.vip(1), case.vip(3)];
    case.apply_service("first", &json!({}))?;
    let agent = case.agent(&["--pool", &first.to_string()])?;
    case.wait_for_status("first", &[first])?;
    agent.kill9()?;

    // No right to read the ConfigMap, then no ConfigMap: what is served stays, and nothing is added.
    case.apply_service("stranger", &json!({"loadBalancerIP": strange}))?;
    let agent = start(case)?;
    let refusal = "cannot list resource \"configmaps\"";
    wait_until(LIMIT, "the missing right to be named", || {
        let log = agent.log().replace('\\', "");
        let names = |line: &str| line.contains(refusal) && line.contains("`llb-agent rbac`");
        if log.lines().any(names) { Ok(Some(())) } else { Err(anyhow!("{log}")) }
    })?;
    grant(case)?;
    wait_for(&agent, "InvalidConfiguration", &["there is no such ConfigMap", "no Service is served anew"])?;
    wait_for(&agent, "SavedSnapshotRefused", &["has no pools of it"])?;
    ensure!(agent.get("/readyz").is_err(), "ready without pools");
    case.ask_often(SocketAddr::new(first, ECHO_PORT))?;
    stays_closed(case, strange)?;
    write(case, "")?;
    wait_for(&agent, "InvalidConfiguration", &["llb.toml:1: pool: there is no pool in it"])?;

    write(case, &pool(&[first]))?;
    wait_until(LIMIT, "the agent to be ready", || agent.get("/readyz").map(Some))?;
    case.wait_for_event("stranger", "SyncLoadBalancerFailed")?;
    case.ask_often(SocketAddr::new(first, ECHO_PORT))?;
    case.apply_service("second", &json!({}))?;
    case.wait_for_event("second", "SyncLoadBalancerFailed")?;
    stays_closed(case, strange)?;

    write(case, "[[pool]]\nname = \"web\"\nrange = [\"192.0.2.1\"]\n")?;
    let words =
        ["ConfigMap", "llb.toml:3: pool.range: a pool has no such key; did you mean ranges?", "stay in use"];
    wait_for(&agent, "InvalidConfiguration", &words)?;
    case.ask_often(SocketAddr::new(first, ECHO_PORT))?;

    write(case, &pool(&[first, second]))?;
    case.wait_for_status("second", &[second])?;
    case.ask_often(SocketAddr::new(second, ECHO_PORT))?;
    agent.wait_for_state(LIMIT, "no problem any more", |state| {
        agent::problem(state, "InvalidConfiguration").is_none()
    })?;

    last_pools_stay(case, agent)?;
    stays_closed(case, strange)
}

/// The pools of a ConfigMap that is deleted stay, also after a restart.
fn last_pools_stay(case: &Case<'_>, agent: Agent) -> Result<()> {
    let all = [case.vip(0), case.vip(1), case.vip(2)];
    let third = all[2];
    write(case, &pool(&all))?;
    wait_until(LIMIT, "three pools' addresses", || {
        let count = agent.metric("llb_pool_addresses{pool=\"web\",family=\"IPv4\"}")?;
        if count == 3 { Ok(Some(())) } else { Err(anyhow!("{count}")) }
    })?;
    let saved = case.balancer.directory().join(format!("{}.state/snapshot", case.balancer.name()));
    wait_until(LIMIT, "the pools to be saved", || {
        let text = std::fs::read_to_string(&saved)?;
        Ok(text.contains(&third.to_string()).then_some(()))
    })?;
    case.kubectl(&["delete", "configmap", "pools"])?;
    let words = ["there is no such ConfigMap", "its last pools without mistakes stay in use"];
    wait_for(&agent, "InvalidConfiguration", &words)?;
    agent.kill9()?;
    let agent = start(case)?;
    wait_for(&agent, "InvalidConfiguration", &words)?;
    case.apply_service("third", &json!({}))?;
    case.wait_for_status("third", &[third])?;
    for vip in all {
        case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    }
    Ok(())
}

fn start(case: &Case<'_>) -> Result<Agent> {
    let name = format!("{}/pools", case.namespace);
    let kubeconfig = case.cluster.agent_kubeconfig().display().to_string();
    Agent::spawn(&case.balancer, &["--kubeconfig", &kubeconfig, "--config-map", &name])
}

/// As docs/operations.md has it.
pub(crate) fn grant(case: &Case<'_>) -> Result<()> {
    let mut command = Command::new(agent::binary()?);
    let name = format!("--config-map={}/pools", case.namespace);
    let output = command.args(["rbac", &name]).output().context("cannot start llb-agent")?;
    let rights = String::from_utf8(output.stdout)?;
    case.cluster.kubectl_with_input(&["apply", "-f", "-"], &rights).map(drop)
}

pub(crate) fn write(case: &Case<'_>, text: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pools"}, "data": {"llb.toml": text},
    });
    case.cluster.apply(&case.namespace, &object.to_string())
}

pub(crate) fn pool(vips: &[IpAddr]) -> String {
    let ranges: Vec<String> = vips.iter().map(|vip| format!("{:?}", vip.to_string())).collect();
    format!("[[pool]]\nname = \"web\"\nranges = [{}]\n", ranges.join(", "))
}

fn wait_for(agent: &Agent, reason: &str, words: &[&str]) -> Result<()> {
    let holds = |state: &serde_json::Value| {
        let text = agent::problem(state, reason).map(ToString::to_string).unwrap_or_default();
        words.iter().all(|word| text.contains(word))
    };
    agent.wait_for_state(LIMIT, &format!("{reason} with {words:?}"), holds).map(drop)
}

fn stays_closed(case: &Case<'_>, vip: IpAddr) -> Result<()> {
    ensure!(case.published("stranger")?.is_empty() && !case.balancer.has_address(vip)?, "{vip} is open");
    Ok(())
}
