// SPDX-License-Identifier: Apache-2.0
//! Who writes to the API, and how often: several agents, another load balancer, and the writes for an ordinary
//! Service as the API server has counted them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, anyhow, ensure};
use llb_tests::wait::holds_throughout;
use llb_tests::{Agent, wait_until};
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT, QUIET};

/// Longer than the time after which an agent tells of what lasts.
const TOLD: std::time::Duration = std::time::Duration::from_secs(5);

pub(crate) fn an_ordinary_service_costs_one_status_write_and_two_events(case: &mut Case<'_>) -> Result<()> {
    let agent = case.agent(&[])?;
    let vip = case.vip(0);
    case.add_echo_pods(&["node-1", "node-2"])?;
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.wait_for_status("echo", &[vip])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_event("echo", "PlaneChosen")?;
    // An edit of the Service that does not concern its status, and a Pod that comes and goes.
    case.kubectl(&["label", "service", "echo", "edited=yes"])?;
    case.cluster.delete_pod(&case.namespace, "echo", "node-2")?;
    case.add_echo_pods(&["node-2"])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    holds_throughout(TOLD, "one status write and two Events", || {
        let written = case.writes_of_llb("echo")?;
        ensure!(written == (1, 2), "{written:?}: {:?}", case.events("echo")?);
        Ok(())
    })?;
    case.kubectl(&["delete", "service", "echo"])?;
    case.wait_for_link(vip, false)?;
    let written = case.writes_of_llb("echo")?;
    ensure!(written == (1, 2), "{written:?} after its end");
    assert_eq!(agent.metric("llb_status_writer")?, 1);
    assert_eq!(agent.metric("llb_events_dropped_total")?, 0);
    Ok(())
}

pub(crate) fn of_two_agents_one_writes_and_the_other_takes_over(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let [vip, later] = [case.vip(0), case.vip(1)];
    let pool = format!("{vip}-{later}");
    let first = case.agent(&["--pool", &pool])?;
    wait_for_writer(&first, true)?;
    let other = case.add_balancer("b")?;
    let second = case.agent_on(&other, &["--pool", &pool])?;
    assert!(second.get("/readyz")?.contains("this agent only serves"), "{}", second.get("/readyz")?);

    case.apply_service("echo", &json!({}))?;
    case.wait_for_status("echo", &[vip])?;
    case.wait_for_link(vip, true)?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_event("echo", "PlaneChosen")?;
    holds_throughout(TOLD, "one writer", || {
        ensure!(!other.has_address(vip)?, "both have the VIP");
        let written = case.writes_of_llb("echo")?;
        ensure!(written == (1, 2), "{written:?}: {:?}", case.events("echo")?);
        Ok(())
    })?;
    assert_eq!((first.metric("llb_status_writer")?, second.metric("llb_status_writer")?), (1, 0));

    // The writer loses the Lease, but keeps its VIP and its clients.
    let take = json!({"spec": {"holderIdentity": name_of(&second)?, "renewTime": null}}).to_string();
    let lease = ["--namespace", "kube-system", "patch", "lease", "llb.dev-llb", "--type=merge", "-p", &take];
    case.cluster.kubectl(&lease)?;
    wait_for_writer(&second, true)?;
    wait_for_writer(&first, false)?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    assert!(case.balancer.has_address(vip)? && !other.has_address(vip)?);
    // It dies, and the writer takes what it had.
    first.kill9()?;
    case.balancer.unplug()?;
    wait_until(LIMIT, "the other agent to have the VIP", || Ok(other.has_address(vip)?.then_some(())))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.apply_service("later", &json!({}))?;
    case.wait_for_status("later", &[later])?;
    case.wait_for_status("echo", &[vip])
}

pub(crate) fn two_agents_without_pools_do_not_fight(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let other = case.add_balancer("b")?;
    let agents = [case.agent(&[])?, case.agent_on(&other, &[])?];
    case.apply_service("echo", &json!({}))?;
    wait_until(LIMIT, "a status", || Ok((!case.published("echo")?.is_empty()).then_some(())))?;
    case.wait_for_event("echo", "PlaneChosen")?;
    holds_throughout(TOLD, "one writer", || {
        let written = case.writes_of_llb("echo")?;
        ensure!(written == (1, 2), "{written:?}: {:?}", case.events("echo")?);
        Ok(())
    })?;
    // Both serve.
    for host in [&case.balancer, &other] {
        case.ask_often(SocketAddr::new(IpAddr::V4(host.ipv4()), ECHO_PORT))?;
    }
    let writers: u64 = agents.iter().map(|agent| agent.metric("llb_status_writer")).sum::<Result<u64>>()?;
    assert_eq!(writers, 1);
    Ok(())
}

pub(crate) fn llb_gives_way_to_another_load_balancer_and_says_so_once(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let agent = case.agent(&[])?;
    let vip = case.vip(0);
    let foreign: IpAddr = "203.0.113.99".parse()?;
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.wait_for_status("echo", &[vip])?;

    let overwrite = || -> Result<()> {
        if case.published("echo")?.contains(&foreign) {
            return Ok(());
        }
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": foreign}]}}}).to_string();
        let what = ["patch", "service", "echo", "--subresource=status", "--type=merge", "-p", &status];
        case.kubectl(&what).map(drop)
    };
    wait_until(LIMIT, "llb to give way", || {
        overwrite()?;
        let state = agent.state()?;
        let problem = llb_tests::agent::problem(&state, "StatusOverwritten").map(ToString::to_string);
        match problem {
            Some(text) if text.contains("no longer writes it") => Ok(Some(())),
            other => Err(anyhow!("{other:?}")),
        }
    })?;
    overwrite()?;
    let message = case.wait_for_event("echo", "StatusOverwritten")?;
    assert!(message.contains("another program"), "{message}");
    holds_throughout(TOLD, "the other one has the status", || {
        ensure!(case.published("echo")? == [foreign].into(), "{:?}", case.published("echo")?);
        Ok(())
    })?;
    let (statuses, events) = case.writes_of_llb("echo")?;
    ensure!((statuses, events) == (6, 3), "{statuses}, {events}: {:?}", case.events("echo")?);
    // It is served all the same.
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;

    // Now it is llb's alone.
    case.patch_service("echo", &json!({"metadata": {"annotations": {"llb.dev/max-connections": "100"}}}))?;
    case.wait_for_status("echo", &[vip])?;
    holds_throughout(QUIET, "it stays", || {
        ensure!(case.published("echo")? == [vip].into(), "{:?}", case.published("echo")?);
        Ok(())
    })
}

fn wait_for_writer(agent: &Agent, writes: bool) -> Result<()> {
    wait_until(LIMIT, &format!("llb_status_writer {}", u8::from(writes)), || {
        Ok((agent.metric("llb_status_writer")? == u64::from(writes)).then_some(()))
    })
}

/// The name of the agent in the Lease.
fn name_of(agent: &Agent) -> Result<String> {
    let state = agent.state()?;
    let name = state["writer"]["identity"].as_str();
    name.map(str::to_owned).ok_or_else(|| anyhow!("it has no name: {}", state["writer"]))
}
