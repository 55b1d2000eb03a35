// SPDX-License-Identifier: Apache-2.0
//! Services that llb does not serve on purpose, and how it reports them.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use llb_tests::Agent;
use llb_tests::wait::holds_throughout;
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT, QUIET};

pub(crate) fn the_younger_of_two_colliding_services_is_refused(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let agent = case.agent(&[])?;
    let vip = case.vip(0);
    case.apply_service("older", &json!({"loadBalancerIP": vip}))?;
    case.wait_for_status("older", &[vip])?;
    case.apply_service("younger", &json!({"loadBalancerIP": vip}))?;

    let problem = agent.wait_for_problem(LIMIT, "FrontendCollision")?;
    assert!(problem.contains("/younger") && problem.contains("/older"), "{problem}");
    let message = case.wait_for_event("younger", "SyncLoadBalancerFailed")?;
    assert!(message.contains("/older"), "{message}");
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_status("younger", &[])?;

    case.kubectl(&["delete", "service", "older"])?;
    case.wait_for_status("younger", &[vip])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT)).map(drop)
}

pub(crate) fn an_exhausted_pool_is_reported(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let vip = case.vip(0);
    let agent = case.agent(&["--pool", &format!("{vip}/32")])?;
    case.apply_service("first", &json!({}))?;
    case.wait_for_status("first", &[vip])?;
    case.apply_service("second", &json!({}))?;

    let problem = agent.wait_for_problem(LIMIT, "PoolExhausted")?;
    assert!(problem.contains("/second") && problem.contains(&vip.to_string()), "{problem}");
    case.wait_for_event("second", "SyncLoadBalancerFailed")?;
    case.wait_for_status("second", &[])?;

    case.kubectl(&["delete", "service", "first"])?;
    case.wait_for_status("second", &[vip])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT)).map(drop)
}

pub(crate) fn the_class_decides_which_services_are_served(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let [none, own, other] = [0, 1, 2].map(|index| case.vip(index));
    case.apply_service("none", &json!({"loadBalancerIP": none}))?;
    case.apply_service("own", &json!({"loadBalancerIP": own, "loadBalancerClass": "llb.dev/llb"}))?;
    case.apply_service("other", &json!({"loadBalancerIP": other, "loadBalancerClass": "example.com/other"}))?;

    let agent = case.agent(&[])?;
    case.wait_for_status("none", &[none])?;
    case.wait_for_status("own", &[own])?;
    holds_throughout(QUIET, "another class is left alone", || {
        ensure!(!case.balancer.has_address(other)?, "{other} is on the link");
        ensure!(case.published("other")?.is_empty(), "it has a status");
        Ok(())
    })?;
    agent.kill9()?;

    // Now the Service `none` belongs to other controllers, which may still use the address in its status.
    let _agent = case.agent(&["--default-class=false"])?;
    case.wait_for_link(none, false)?;
    case.ask_often(SocketAddr::new(own, ECHO_PORT)).map(drop)
}

pub(crate) fn only_services_of_chosen_namespaces_are_served(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let [inside, outside] = [0, 1].map(|index| case.vip(index));
    let elsewhere = format!("{}-elsewhere", case.namespace);
    case.cluster.kubectl(&["create", "namespace", &elsewhere])?;
    let kubeconfig = tenant_kubeconfig(case)?.display().to_string();
    let _agent =
        Agent::start(&case.balancer, &["--kubeconfig", &kubeconfig, "--namespace", &case.namespace])?;
    case.apply_service_in(&elsewhere, "echo", &json!({"loadBalancerIP": outside}))?;
    case.apply_service("echo", &json!({"loadBalancerIP": inside}))?;

    case.ask_often(SocketAddr::new(inside, ECHO_PORT))?;
    let result = holds_throughout(QUIET, "another namespace is left alone", || {
        ensure!(!case.balancer.has_address(outside)?, "{outside} is on the link");
        let service = case.cluster.get(&elsewhere, &["service", "echo"])?;
        ensure!(service["status"]["loadBalancer"] == json!({}), "it has a status");
        Ok(())
    });
    case.cluster.kubectl(&["--namespace", &elsewhere, "delete", "service", "echo"])?;
    case.cluster.kubectl(&["delete", "namespace", &elsewhere, "--wait=false"])?;
    result
}

/// A kubeconfig for an account that has the agent's rights in this namespace only. (Nodes have no namespace.)
fn tenant_kubeconfig(case: &Case<'_>) -> Result<PathBuf> {
    let account = format!("--serviceaccount={}:tenant", case.namespace);
    case.kubectl(&["create", "serviceaccount", "tenant"])?;
    case.kubectl(&["create", "rolebinding", "tenant", "--clusterrole=llb-agent", &account])?;
    case.kubectl(&["create", "clusterrole", "tenant", "--verb=get,list,watch", "--resource=nodes"])?;
    case.kubectl(&["create", "clusterrolebinding", "tenant", "--clusterrole=tenant", &account])?;
    case.cluster.write_kubeconfig("tenant", &case.cluster.token(&case.namespace, "tenant")?)
}
