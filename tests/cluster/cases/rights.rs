// SPDX-License-Identifier: Apache-2.0
//! The agent's rights, one by one. With all of those that llb ships, nothing is refused; without any one of them, llb says
//! which one it misses and where it is printed.

use anyhow::{Context as _, Result, anyhow, ensure};
use llb_tests::{Agent, Host, wait_until};
use serde_json::{Value, json};

use super::config_map;
use crate::case::{Case, LIMIT};

/// What is made here has this label.
const LABEL: &str = "llb.dev/case=rights";

/// One verb on one resource.
struct Verb {
    /// Index of the role, and of the rule in it.
    place: (usize, usize),
    verb: String,
    resource: String,
}

pub(crate) fn each_missing_verb_is_named(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    // Each agent has an Event about it.
    case.apply_service("refused", &json!({"loadBalancerIP": "198.51.100.9"}))?;
    config_map::grant(case)?;
    config_map::write(case, &config_map::pool(&[vip]))?;
    let pools = format!("--config-map={}/pools", case.namespace);
    let kubeconfig = case.cluster.agent_kubeconfig().display().to_string();
    for check in ["source", "api-rights", "clock", "nodes"] {
        ensure!(doctor(case, &kubeconfig, check, "ok")?.is_some(), "doctor does not say that {check} is ok");
    }
    let agent = case.agent(&["--userspace", &pools])?;
    case.wait_for_status("echo", &[vip])?;
    case.wait_for_event("refused", "SyncLoadBalancerFailed")?;
    ensure!(!agent.log().contains("is forbidden"), "with all rights something is refused:\n{}", agent.log());
    agent.kill9()?;

    let roles = shipped_roles(case)?;
    let verbs = verbs_of(&roles);
    ensure!(verbs.len() >= 14, "only {} verbs are granted", verbs.len());
    let objects: Vec<Value> = verbs
        .iter()
        .enumerate()
        .flat_map(|(index, verb)| lesser_account(case, &roles, index, verb))
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    case.cluster.kubectl_with_input(&["apply", "-f", "-"], &list.to_string())?;
    for (index, verb) in verbs.iter().enumerate() {
        without(case, &account(index), verb).with_context(|| format!("{} {}", verb.verb, verb.resource))?;
    }
    for (namespace, kinds) in [("kube-system", "role,rolebinding"), ("", "clusterrole,clusterrolebinding")] {
        case.cluster.kubectl(&["--namespace", namespace, "delete", kinds, "--selector", LABEL])?;
    }
    Ok(())
}

/// Starts an agent that has all rights but this one, and waits for a line that names it and the way out.
fn without(case: &Case<'_>, account: &str, missing: &Verb) -> Result<()> {
    let token = case.cluster.token(&case.namespace, account)?;
    let kubeconfig = case.cluster.write_kubeconfig(account, &token)?.display().to_string();
    case.cluster.free_lease()?;
    // Each agent has a status to write.
    let clear = r#"{"status":{"loadBalancer":{"ingress":null}}}"#;
    case.kubectl(&["patch", "service", "echo", "--subresource=status", "--type=merge", "-p", clear])?;
    let Verb { verb, resource, .. } = missing;
    let is_optional = ["namespaces", "servicecidrs"].contains(&resource.as_str());
    let level = if is_optional { "warning" } else { "error" };
    let said = doctor(case, &kubeconfig, "api-rights", level)?.unwrap_or_default();
    ensure!(said.contains(&format!("may not {verb} {resource}")), "doctor says: {said}");
    let text = format!("cannot {verb} resource \"{resource}\"");
    let pools = format!("--config-map={}/pools", case.namespace);
    let agent = Agent::spawn(&case.balancer, &["--kubeconfig", &kubeconfig, "--userspace", &pools])?;
    wait_until(LIMIT, &format!("a line of the log with: {text}, and llb-agent rbac"), || {
        let log = agent.log();
        if refuses(&log, &text) { Ok(Some(())) } else { Err(anyhow!("{log}")) }
    })?;
    agent.kill9()
}

/// What `llb-agent doctor` says about a check, if it has this level.
fn doctor(case: &Case<'_>, kubeconfig: &str, check: &str, level: &str) -> Result<Option<String>> {
    let state_dir = case.balancer.directory().join("doctor.state");
    let pools = format!("--config-map={}/pools", case.namespace);
    let output = case
        .balancer
        .command(llb_tests::agent::binary()?)
        .args(["doctor", "-o", "json", "--linkdevice", Host::LINK, "--userspace", &pools])
        .args(["--kubeconfig", kubeconfig])
        .arg("--state-dir")
        .arg(state_dir)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
    let mut findings = found["findings"].as_array().into_iter().flatten();
    let finding = findings.find(|finding| finding["check"] == check && finding["level"] == level);
    Ok(finding.map(|finding| finding["what"].as_str().unwrap_or_default().to_owned()))
}

/// Whether a line has this text of the API server, and says how to get the right.
fn refuses(log: &str, text: &str) -> bool {
    // Quotes in a log line of JSON have a backslash.
    let mut lines = log.lines().map(|line| line.replace('\\', ""));
    lines.any(|line| line.contains(text) && line.contains("`llb-agent rbac`"))
}

/// The roles of `llb-agent rbac` as the cluster has them.
fn shipped_roles(case: &Case<'_>) -> Result<[Value; 3]> {
    Ok([
        case.cluster.get("default", &["clusterrole", "llb-agent"])?,
        case.cluster.get("kube-system", &["role", "llb-agent-lease"])?,
        case.cluster.get(&case.namespace, &["role", "llb-agent-pools"])?,
    ])
}

fn verbs_of(roles: &[Value]) -> Vec<Verb> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut verbs = Vec::new();
    for (role, object) in roles.iter().enumerate() {
        for (rule, content) in object["rules"].as_array().into_iter().flatten().enumerate() {
            let resource = text(&content["resources"][0]);
            let of_rule = content["verbs"].as_array().into_iter().flatten();
            verbs.extend(of_rule.map(|verb| Verb {
                place: (role, rule),
                verb: text(verb),
                resource: resource.clone(),
            }));
        }
    }
    verbs
}

fn account(index: usize) -> String {
    format!("without-{index}")
}

/// An account with all roles, but for one verb.
fn lesser_account(case: &Case<'_>, roles: &[Value], index: usize, missing: &Verb) -> Vec<Value> {
    let account = account(index);
    let (key, value) = LABEL.split_once('=').unwrap_or_default();
    let metadata =
        |namespace: &Value| json!({"name": account, "namespace": namespace, "labels": {key: value}});
    let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": case.namespace});
    let group = "rbac.authorization.k8s.io";
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(&json!(case.namespace))}),
    ];
    for (role, object) in roles.iter().enumerate() {
        let (kind, metadata) =
            (object["kind"].as_str().unwrap_or_default(), metadata(&object["metadata"]["namespace"]));
        let mut rules = object["rules"].as_array().cloned().unwrap_or_default();
        if role == missing.place.0
            && let Some(verbs) = rules[missing.place.1]["verbs"].as_array_mut()
        {
            verbs.retain(|verb| verb != missing.verb.as_str());
        }
        // The API takes no rule without verbs.
        rules.retain(|rule| rule["verbs"] != json!([]));
        objects.push(
            json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": metadata, "rules": rules}),
        );
        objects.push(json!({
            "apiVersion": format!("{group}/v1"), "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": kind, "name": account}, "subjects": [subject],
        }));
    }
    objects
}
