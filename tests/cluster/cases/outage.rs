// SPDX-License-Identifier: Apache-2.0
//! Outages of the API server and of llb itself: traffic must continue.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use llb_tests::agent::problem;
use llb_tests::client::{self, Load, Tally};
use llb_tests::{Agent, FalseClock, environment, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::case::{Case, ECHO_PORT, LIMIT, PACE};

/// How long the API server is away in the test of a long outage, without `LLB_OUTAGE_SECS`: longer than the back-off of
/// watches, and than one watch lives.
const LONG_OUTAGE: Duration = Duration::from_secs(75);

/// Writes that happen after the backup, so that the revision does not get back to where it was.
const LOST_WRITES: usize = 60;

/// A silent partition is noticed within 12 s (docs/operations.md); less than a watch needs, on a busy machine too.
const NOTICED: Duration = Duration::from_secs(40);

/// Enough to meet a listener that was closed for only a moment.
const REQUESTS: usize = 300;

/// An agent that serves the Service `echo` on the first of two VIPs.
fn served(case: &mut Case<'_>) -> Result<(Agent, [IpAddr; 2])> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&[])?;
    let [vip, later] = [case.vip(0), case.vip(1)];
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_status("echo", &[vip])?;
    case.wait_for_every_node("echo")?;
    Ok((agent, [vip, later]))
}

pub(crate) fn traffic_goes_on_without_the_api_server(case: &mut Case<'_>) -> Result<()> {
    let (agent, [vip, later]) = served(case)?;

    let load = Load::paced(case.lab.client(), SocketAddr::new(vip, ECHO_PORT), PACE);
    case.cluster.stop_apiserver()?;
    load.wait_for_more(REQUESTS, LIMIT)?;
    agent.wait_for_problem(LIMIT, "SourceUnavailable")?;
    case.cluster.start_apiserver()?;
    load.wait_for_more(REQUESTS, LIMIT)?;

    case.apply_service("later", &json!({"loadBalancerIP": later}))?;
    case.ask_often(SocketAddr::new(later, ECHO_PORT))?;
    wait_until_it_is_over(&agent)?;
    none_failed(load)?;
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
        vips.push(wait_until(LIMIT, &format!("a VIP of {name}"), || Ok(case.published(name)?.pop_first()))?);
        case.wait_for_every_node(name)?;
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
    let vips = ["first", "second"]
        .map(|name| wait_until(LIMIT, &format!("a VIP of {name}"), || Ok(case.published(name)?.pop_first())));
    let file = case.balancer.directory().join(format!("{}.state/snapshot", case.balancer.name()));
    let vips = vips.into_iter().collect::<Result<Vec<_>>>()?;
    wait_until(LIMIT, "both VIPs to be in the saved snapshot", || {
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
        ["SavedSnapshotRefused", "SourceUnavailable"].iter().all(|reason| problem(state, reason).is_none())
    })?;
    case.ask_often(SocketAddr::new(vips[1], ECHO_PORT)).map(drop)
}

pub(crate) fn a_long_outage_changes_nothing(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&[])?;
    let [vip, later] = [case.vip(0), case.vip(1)];
    let address = SocketAddr::new(vip, ECHO_PORT);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.ask_often(address)?;
    case.wait_for_status("echo", &[vip])?;

    let mut open = client::connect(case.lab.client(), address)?;
    case.wait_for_every_node("echo")?;
    let load = Load::paced(case.lab.client(), address, PACE);
    case.cluster.stop_apiserver()?;
    let outage = environment::outage_secs().map_or(LONG_OUTAGE, Duration::from_secs);
    wait_until(outage + LIMIT, "the outage to last", || {
        assert!(case.balancer.has_address(vip)?, "the VIP was withdrawn");
        // Once a minute the log says how long it has lasted.
        let (log, minute) = (agent.log(), Duration::from_secs(60));
        let parts = log.split(" s now").filter_map(|part| part.rsplit_once(" for ")?.1.parse().ok());
        let lasted = parts.map(Duration::from_secs).max().unwrap_or_default();
        Ok((lasted + minute > outage && lasted >= minute).then_some(()))
    })?;
    case.cluster.start_apiserver()?;
    case.apply_service("later", &json!({"loadBalancerIP": later}))?;
    case.ask_often(SocketAddr::new(later, ECHO_PORT))?;
    wait_until_it_is_over(&agent)?;
    client::http_get_on(&mut open, address)?;
    none_failed(load)?;
    case.wait_for_status("echo", &[vip])
}

pub(crate) fn a_silent_partition_is_said_and_ends(case: &mut Case<'_>) -> Result<()> {
    let (agent, [vip, later]) = served(case)?;

    let load = Load::paced(case.lab.client(), SocketAddr::new(vip, ECHO_PORT), PACE);
    case.cluster.cut_off_apiserver(true)?;
    // Watches are silent for a minute when all is well, and would say nothing before that.
    let noticed = agent.wait_for_problem(NOTICED, "SourceUnavailable");
    let ready = agent.get("/readyz");
    // Also if this case has failed: the other ones need it.
    case.cluster.cut_off_apiserver(false)?;
    let (message, ready) = (noticed?, ready?);
    assert!(message.contains("does not answer"), "{message}");
    assert!(ready.contains("does not answer"), "{ready}");
    assert!(agent.log().contains("does not answer"));
    wait_until(LIMIT, "the API server to answer kubectl", || case.kubectl(&["get", "services"]).map(Some))?;
    case.apply_service("later", &json!({"loadBalancerIP": later}))?;
    case.ask_often(SocketAddr::new(later, ECHO_PORT))?;
    wait_until_it_is_over(&agent)?;
    none_failed(load)
}

pub(crate) fn an_etcd_restored_to_an_older_revision_is_noticed(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let agent = case.agent(&[])?;
    let [kept, gone, new] = [case.vip(0), case.vip(1), case.vip(2)];
    for (name, vip) in [("kept", kept), ("gone", gone)] {
        case.apply_service(name, &json!({"loadBalancerIP": vip}))?;
        case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
        case.wait_for_status(name, &[vip])?;
    }
    case.wait_for_every_node("kept")?;
    let load = Load::paced(case.lab.client(), SocketAddr::new(kept, ECHO_PORT), PACE);
    case.cluster.save_etcd("backup")?;

    // None of this has happened after the restore.
    case.kubectl(&["delete", "service", "gone"])?;
    case.apply_service("new", &json!({"loadBalancerIP": new}))?;
    case.wait_for_link(gone, false)?;
    case.wait_for_status("new", &[new])?;
    for write in 0..LOST_WRITES {
        case.kubectl(&["annotate", "--overwrite", "service", "kept", &format!("write={write}")])?;
    }

    case.cluster.restore_etcd("backup")?;
    case.wait_for_link(gone, true)?;
    case.wait_for_link(new, false)?;
    wait_until_it_is_over(&agent)?;
    assert!(agent.log().contains("all objects are listed again"), "{}", agent.log());
    case.wait_for_status("gone", &[gone])?;
    none_failed(load)?;
    // The cases after this one need them.
    case.cluster.restart_proxies()
}

pub(crate) fn a_clock_that_jumps_changes_nothing(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let clock = FalseClock::new(case.balancer.directory())?;
    let kubeconfig = case.cluster.agent_kubeconfig().display().to_string();
    let agent = Agent::spawn_with(&case.balancer, &["--kubeconfig", &kubeconfig], &clock.variables())?;
    let vip = case.vip(0);
    let address = SocketAddr::new(vip, ECHO_PORT);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.ask_often(address)?;
    case.wait_for_status("echo", &[vip])?;
    let file = case.balancer.directory().join(format!("{}.state/snapshot", case.balancer.name()));
    let saved_at = || -> Result<String> {
        let text = std::fs::read_to_string(&file)?;
        let (_, rest) = text.split_once("\"saved_at\":\"").context("no time")?;
        Ok(rest[..4].to_owned())
    };

    let mut open = client::connect(case.lab.client(), address)?;
    case.wait_for_every_node("echo")?;
    let load = Load::paced(case.lab.client(), address, PACE);
    for (index, years) in [(1, 20), (2, -20)] {
        let before = saved_at()?;
        clock.jump(years * 366 * 24 * 3600)?;
        let (name, vip) = (format!("jump-{index}"), case.vip(index));
        case.apply_service(&name, &json!({"loadBalancerIP": vip}))?;
        case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
        case.wait_for_status(&name, &[vip])?;
        // The agent sees the false time.
        wait_until(LIMIT, "the saved snapshot to be of another year", || {
            Ok((saved_at()? != before).then_some(()))
        })?;
    }
    clock.jump(0)?;
    case.kubectl(&["delete", "service", "jump-1"])?;
    case.wait_for_link(case.vip(1), false)?;
    client::http_get_on(&mut open, address)?;
    none_failed(load)?;
    assert!(problem(&agent.state()?, "SourceUnavailable").is_none());
    case.wait_for_status("echo", &[vip])
}

fn wait_until_it_is_over(agent: &Agent) -> Result<()> {
    let is_over = |state: &Value| problem(state, "SourceUnavailable").is_none();
    agent.wait_for_state(LIMIT, "the problem to be over", is_over).map(drop)
}

fn none_failed(load: Load) -> Result<()> {
    let tally: Tally = load.stop()?;
    let (failures, total) = (&tally.failures, tally.total());
    assert!(failures.is_empty(), "{} of {total} failed: {:?}", failures.len(), failures.first());
    Ok(())
}
