// SPDX-License-Identifier: Apache-2.0
//! Outages of the API server and of llb itself: traffic must continue.

use std::net::SocketAddr;

use anyhow::Result;
use llb_tests::Agent;
use llb_tests::client::Load;
use rustix::process::Signal;
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT};

/// Enough to meet a listener that was closed for only a moment.
const REQUESTS: usize = 300;

pub(crate) fn traffic_goes_on_without_the_api_server(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&[])?;
    let [vip, later] = [case.vip(0), case.vip(1)];
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_status("echo", &[vip])?;

    let load = Load::start(case.lab.client(), SocketAddr::new(vip, ECHO_PORT));
    case.cluster.stop_apiserver()?;
    load.wait_for_more(REQUESTS, LIMIT)?;
    agent.wait_for_problem(LIMIT, "SourceUnavailable")?;
    case.cluster.start_apiserver()?;
    load.wait_for_more(REQUESTS, LIMIT)?;

    case.apply_service("later", &json!({"loadBalancerIP": later}))?;
    case.ask_often(SocketAddr::new(later, ECHO_PORT))?;
    agent.wait_for_state(LIMIT, "the problem to be over", |state| {
        llb_tests::agent::problem(state, "SourceUnavailable").is_none()
    })?;
    let tally = load.stop()?;
    assert!(
        tally.failures.is_empty(),
        "{} of {} failed: {:?}",
        tally.failures.len(),
        tally.total(),
        tally.failures.first()
    );
    case.wait_for_status("echo", &[vip])?;

    case.cluster.restart_apiserver()?;
    case.kubectl(&["delete", "service", "later"])?;
    case.wait_for_link(later, false)?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT)).map(drop)
}

pub(crate) fn an_expired_resource_version_means_a_new_list(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let mut agent = case.agent(&[])?;
    let [gone, new] = [case.vip(0), case.vip(1)];
    case.apply_service("gone", &json!({"loadBalancerIP": gone}))?;
    case.wait_for_status("gone", &[gone])?;

    // An API server that starts does not know what changed before: its watches begin with the state at its
    // start. So the changes made while the agent is stopped are lost to it.
    agent.process().signal(Signal::STOP)?;
    case.kubectl(&["delete", "service", "gone"])?;
    case.apply_service("new", &json!({"loadBalancerIP": new}))?;
    case.cluster.restart_apiserver()?;
    agent.process().signal(Signal::CONT)?;

    case.ask_often(SocketAddr::new(new, ECHO_PORT))?;
    case.wait_for_link(gone, false)?;
    assert!(agent.log().contains("the resource version expired"), "{}", agent.log());
    Ok(())
}

pub(crate) fn a_killed_agent_finds_its_vips_again(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let pool = format!("{}-{}", case.vip(0), case.vip(3));
    let agent = case.agent(&["--pool", &pool])?;
    for name in ["first", "second", "third"] {
        case.apply_service(name, &json!({}))?;
    }
    let mut vips = Vec::new();
    for name in ["first", "second", "third"] {
        vips.push(llb_tests::wait_until(LIMIT, &format!("a VIP of {name}"), || {
            Ok(case.published(name)?.pop_first())
        })?);
    }
    agent.kill9()?;
    // The other Services must not move into the place of the first one.
    case.kubectl(&["delete", "service", "first"])?;

    let _agent = case.agent(&["--pool", &pool])?;
    case.wait_for_link(vips[0], false)?;
    for (name, vip) in ["second", "third"].into_iter().zip(&vips[1..]) {
        case.ask_often(SocketAddr::new(*vip, ECHO_PORT))?;
        case.wait_for_status(name, &[*vip])?;
    }
    // Exactly its own two VIPs and the host's two addresses.
    let addresses = case.balancer.addresses()?;
    assert_eq!(addresses.len(), 4, "{addresses:?}");
    Ok(())
}

pub(crate) fn a_start_without_the_api_server_serves_the_saved_snapshot(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let pool = format!("{}-{}", case.vip(0), case.vip(1));
    let flags = ["--pool", &pool];
    let agent = case.agent(&flags)?;
    for name in ["first", "second"] {
        case.apply_service(name, &json!({}))?;
    }
    let vips = ["first", "second"].map(|name| {
        llb_tests::wait_until(LIMIT, &format!("a VIP of {name}"), || Ok(case.published(name)?.pop_first()))
    });
    let file = case.balancer.directory().join(format!("{}.state/snapshot", case.balancer.name()));
    let vips = vips.into_iter().collect::<Result<Vec<_>>>()?;
    llb_tests::wait_until(LIMIT, "both VIPs to be in the saved snapshot", || {
        let text = std::fs::read_to_string(&file)?;
        Ok(vips.iter().all(|vip| text.contains(&format!("\"ip\":\"{vip}\""))).then_some(()))
    })?;

    case.cluster.stop_apiserver()?;
    agent.kill9()?;
    let agent = case.agent(&flags)?;
    let message = agent.wait_for_problem(LIMIT, "SourceUnavailable")?;
    assert!(agent.get("/readyz")?.contains("serving the saved snapshot of"), "{message}");
    for vip in &vips {
        assert!(case.balancer.has_address(*vip)?, "{vip}");
        case.ask_often(SocketAddr::new(*vip, ECHO_PORT))?;
    }

    // An agent that cannot trust its saved snapshot serves nothing, says why, and keeps running.
    agent.kill9()?;
    let mut damaged = std::fs::read(&file)?;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&file, damaged)?;
    let kubeconfig = case.cluster.agent_kubeconfig().display().to_string();
    let agent = Agent::spawn(&case.balancer, &["--kubeconfig", &kubeconfig, "--pool", &pool])?;
    let message = agent.wait_for_problem(LIMIT, "SavedSnapshotRefused")?;
    assert!(message.contains("is damaged"), "{message}");
    assert!(agent.get("/readyz").is_err(), "it is not ready without a snapshot");

    case.cluster.start_apiserver()?;
    for (name, vip) in ["first", "second"].into_iter().zip(&vips) {
        case.ask_often(SocketAddr::new(*vip, ECHO_PORT))?;
        case.wait_for_status(name, &[*vip])?;
    }
    case.kubectl(&["delete", "service", "first"])?;
    case.wait_for_link(vips[0], false)?;
    agent.wait_for_state(LIMIT, "the problems to be over", |state| {
        ["SavedSnapshotRefused", "SourceUnavailable"]
            .iter()
            .all(|reason| llb_tests::agent::problem(state, reason).is_none())
    })?;
    case.ask_often(SocketAddr::new(vips[1], ECHO_PORT)).map(drop)
}
