//! The API server goes away, or llb itself does: traffic must not care.

use std::net::SocketAddr;

use anyhow::Result;
use llb_tests::client::Load;
use rustix::process::Signal;
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT};

/// Enough to meet a listener that was closed for an instant.
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

    // What happens while the agent can't look is forgotten by an API server
    // that starts anew: its watches begin with what there is by then.
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
    // The others must not move up into its place.
    case.kubectl(&["delete", "service", "first"])?;

    let _agent = case.agent(&["--pool", &pool])?;
    case.wait_for_link(vips[0], false)?;
    for (name, vip) in ["second", "third"].into_iter().zip(&vips[1..]) {
        case.ask_often(SocketAddr::new(*vip, ECHO_PORT))?;
        case.wait_for_status(name, &[*vip])?;
    }
    // Its own two and the host's IPv4 and IPv6, each once.
    let addresses = case.balancer.addresses()?;
    assert_eq!(addresses.len(), 4, "{addresses:?}");
    Ok(())
}
