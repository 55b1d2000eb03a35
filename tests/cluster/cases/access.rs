// SPDX-License-Identifier: Apache-2.0
//! Missing rights and wrong credentials: llb says which.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, anyhow};
use llb_tests::client::Load;
use llb_tests::{Agent, ConnectProxy, wait_until};
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT, PACE};

/// Fewer rights than those that llb ships: no `nodes`, no `services/status`, no Lease.
const LESSER_ROLE: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: lesser}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: lesser}
rules:
- {apiGroups: [''], resources: [services], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
";

pub(crate) fn a_missing_verb_is_named(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.cluster.apply(&case.namespace, LESSER_ROLE)?;
    let account = format!("--serviceaccount={}:lesser", case.namespace);
    let grant = |name: &str, role: &str| {
        let role = format!("--clusterrole={role}");
        case.kubectl(&["create", "clusterrolebinding", name, &role, &account])
    };
    grant("lesser", "lesser")?;
    let token = case.cluster.token(&case.namespace, "lesser")?;
    let kubeconfig = case.cluster.write_kubeconfig("lesser", &token)?;

    let agent = Agent::spawn(&case.balancer, &["--kubeconfig", &text(&kubeconfig)])?;
    let words = ["list", "nodes"];
    wait_for_words("the log", &words, || Ok(agent.log()))?;
    let problem = agent.wait_for_problem(LIMIT, "SourceUnavailable")?;
    assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
    let ready = agent.get("/readyz").expect_err("not ready without Nodes").to_string();
    assert!(words.iter().all(|word| ready.contains(word)), "/readyz: {ready}");

    // Once the right is granted, the agent continues by itself. The right that is still missing stops nothing
    // else.
    case.kubectl(&["create", "clusterrole", "lesser-nodes", "--verb=get,list,watch", "--resource=nodes"])?;
    grant("lesser-nodes", "lesser-nodes")?;
    wait_until(LIMIT, "the agent to be ready", || agent.get("/readyz").map(Some))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    let problem = agent.wait_for_problem(LIMIT, "ActionFailed")?;
    assert!(problem.contains("patch") && problem.contains("services/status"), "{problem}");
    // Nobody can say that another agent writes.
    let problem = agent.wait_for_problem(LIMIT, "LeaseUnavailable")?;
    let words = ["leases", "kube-system", "get, create and update", "--lease off"];
    assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
    grant("lesser-all", "llb-agent")?;
    case.wait_for_status("echo", &[vip])?;

    case.kubectl(&["delete", "clusterrolebinding", "lesser", "lesser-nodes", "lesser-all"])?;
    case.kubectl(&["delete", "clusterrole", "lesser", "lesser-nodes"]).map(drop)
}

pub(crate) fn endpoints_are_served_without_the_right_to_read_nodes(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.cluster.apply(&case.namespace, LESSER_ROLE)?;
    let account = format!("--serviceaccount={}:lesser", case.namespace);
    case.kubectl(&["create", "clusterrolebinding", "lesser", "--clusterrole=lesser", &account])?;
    let token = case.cluster.token(&case.namespace, "lesser")?;
    let kubeconfig = case.cluster.write_kubeconfig("lesser-endpoints", &token)?;

    let flags = ["--kubeconfig", &text(&kubeconfig), "--backends", "endpoints"];
    let agent = Agent::start(&case.balancer, &flags)?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    wait_for_words("the log", &["list", "nodes"], || Ok(agent.log()))?;

    case.kubectl(&["delete", "clusterrolebinding", "lesser"])?;
    case.kubectl(&["delete", "clusterrole", "lesser"]).map(drop)
}

pub(crate) fn a_wrong_token_is_named(case: &mut Case<'_>) -> Result<()> {
    let kubeconfig = case.cluster.write_kubeconfig("wrong-token", "not-a-token")?;
    let agent = Agent::spawn(&case.balancer, &["--kubeconfig", &text(&kubeconfig)])?;
    wait_for_words("the log", &["credentials", "token"], || Ok(agent.log()))?;
    let problem = agent.wait_for_problem(LIMIT, "SourceUnavailable")?;
    assert!(problem.contains("token"), "{problem}");
    assert!(!agent.log().contains("not-a-token"), "a credential is in the log");
    assert!(agent.get("/readyz").is_err(), "ready without an API");
    Ok(())
}

pub(crate) fn an_expired_token_is_named_and_traffic_goes_on(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    // The token is valid as long as the Secret exists, so the case can end it at any time.
    case.cluster.kubectl(&["--namespace", "llb", "create", "secret", "generic", "expiry"])?;
    let bound = ["--bound-object-kind=Secret", "--bound-object-name=expiry"];
    let create = [["--namespace", "llb", "create", "token", "llb-agent"].as_slice(), &bound].concat();
    let token = case.cluster.kubectl(&create)?;
    let kubeconfig = case.cluster.write_kubeconfig("expiring", token.trim())?;
    let agent = Agent::start(&case.balancer, &["--kubeconfig", &text(&kubeconfig)])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;

    case.cluster.kubectl(&["--namespace", "llb", "delete", "secret", "expiry"])?;
    // An open watch outlives its token, so the connection must break.
    case.cluster.restart_apiserver()?;
    let problem = agent.wait_for_problem(LIMIT, "SourceUnavailable")?;
    wait_for_words("the log", &["credentials", "token"], || Ok(agent.log()))
        .map_err(|error| error.context(problem))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT)).map(drop)
}

/// A new token, then a new authority, each in the same file.
pub(crate) fn renewed_credentials_are_used_and_traffic_goes_on(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let [vip, second, third] = [case.vip(0), case.vip(1), case.vip(2)];
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.cluster.kubectl(&["--namespace", "llb", "create", "secret", "generic", "old"])?;
    let bound = ["--bound-object-kind=Secret", "--bound-object-name=old"];
    let create = [["--namespace", "llb", "create", "token", "llb-agent"].as_slice(), &bound].concat();
    let token = case.cluster.kubectl(&create)?;
    let kubeconfig = case.cluster.write_kubeconfig("renewed", token.trim())?;
    let agent = Agent::start(&case.balancer, &["--kubeconfig", &text(&kubeconfig)])?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_every_node("echo")?;
    let load = Load::paced(case.lab.client(), SocketAddr::new(vip, ECHO_PORT), PACE);

    let token = case.cluster.token("llb", "llb-agent")?;
    case.cluster.write_kubeconfig("renewed", &token)?;
    case.cluster.kubectl(&["--namespace", "llb", "delete", "secret", "old"])?;
    // An open watch outlives its token, so the connection must break.
    case.cluster.restart_apiserver()?;
    case.apply_service("second", &json!({"loadBalancerIP": second}))?;
    case.ask_often(SocketAddr::new(second, ECHO_PORT))?;
    case.wait_for_status("second", &[second])?;

    let (namespace, spec) = (case.namespace.clone(), json!({"loadBalancerIP": third}));
    let (balancer, service) = (case.balancer.clone(), case.service_text("third", &spec));
    case.cluster.with_another_authority(|cluster| {
        cluster.write_kubeconfig("renewed", &token)?;
        cluster.apply(&namespace, &service)?;
        wait_until(LIMIT, "the agent to follow the other authority", || {
            Ok(balancer.has_address(third)?.then_some(()))
        })
    })?;
    case.cluster.write_kubeconfig("renewed", &token)?;
    case.kubectl(&["delete", "service", "third"])?;
    case.wait_for_link(third, false)?;
    let tally = load.stop()?;
    assert!(tally.failures.is_empty(), "{:?} of {}", tally.failures.first(), tally.total());
    assert!(!agent.log().contains(token.trim()), "a credential is in the log");
    Ok(())
}

/// The balancer reaches the API server only through a proxy.
pub(crate) fn a_proxy_leads_to_the_api_server(case: &mut Case<'_>) -> Result<()> {
    const PORT: u16 = 3128;
    case.add_echo_pods(&["node-1"])?;
    let vip = case.vip(0);
    let control = case.lab.host("control").clone();
    let proxy = ConnectProxy::start(&control, control.at(PORT))?;
    for rule in ["add table inet lab", "add chain inet lab out { type filter hook output priority 0; }"] {
        case.balancer.output(&["nft", rule])?;
    }
    case.balancer.output(&["nft", "add rule inet lab out tcp dport 6443 drop"])?;
    let kubeconfig = text(case.cluster.agent_kubeconfig());
    let url = format!("http://{}", control.at(PORT));
    let variables = [("HTTPS_PROXY", Path::new(&url)), ("NO_PROXY", Path::new("10.0.0.0/8,.svc"))];
    let agent = Agent::spawn_with(&case.balancer, &["--kubeconfig", &kubeconfig], &variables)?;
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    case.wait_for_status("echo", &[vip])?;
    assert!(proxy.tunnels() > 0);
    // Nobody may take the proxy's address: llb would cut itself off.
    let reserved = &agent.state()?["facts"]["host"]["reserved"];
    let address = control.ipv4().to_string();
    assert!(!reserved[&address].is_null(), "{reserved}");
    Ok(())
}

pub(crate) fn a_missing_kubeconfig_is_named(case: &mut Case<'_>) -> Result<()> {
    let missing = text(&case.balancer.directory().join("nowhere.kubeconfig"));
    let mut agent = Agent::spawn(&case.balancer, &["--kubeconfig", &missing])?;
    let status = agent.wait_exit()?;
    assert!(!status.success(), "{status}");
    wait_for_words("the log", &[&missing], || Ok(agent.log()))?;

    let kubeconfig = text(case.cluster.agent_kubeconfig());
    let mut agent =
        Agent::spawn(&case.balancer, &["--kubeconfig", &kubeconfig, "--context", "no-such-context"])?;
    let status = agent.wait_exit()?;
    assert!(!status.success(), "{status}");
    wait_for_words("the log", &["no-such-context"], || Ok(agent.log()))
}

/// Waits until the text contains all `words`, in any order.
fn wait_for_words(whose: &str, words: &[&str], read: impl Fn() -> Result<String>) -> Result<()> {
    wait_until(LIMIT, &format!("{words:?} in {whose}"), || {
        let text = read()?;
        if words.iter().all(|word| text.contains(word)) { Ok(Some(())) } else { Err(anyhow!("{text}")) }
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
