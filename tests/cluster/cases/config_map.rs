// SPDX-License-Identifier: Apache-2.0
//! Pools in a ConfigMap.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use llb_tests::wait_until;
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT};

/// The right to read this one ConfigMap, as docs/operations.md has it.
fn role(case: &Case<'_>) -> String {
    let (namespace, user) = case.cluster.agent_user().strip_prefix("system:serviceaccount:").map_or_else(
        || panic!("the agent has a ServiceAccount"),
        |account| account.split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap_or_default(),
    );
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: pools}}\nrules:\n\
         - {{apiGroups: [''], resources: [configmaps], resourceNames: [pools], verbs: [get, list, watch]}}\n\
         ---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: pools}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: pools}}\n\
         subjects: [{{kind: ServiceAccount, name: {user}, namespace: {namespace}}}]\n"
    )
}

fn write(case: &Case<'_>, text: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pools"}, "data": {"llb.toml": text},
    });
    case.cluster.apply(&case.namespace, &object.to_string())
}

fn pool(vips: &[IpAddr]) -> String {
    let ranges: Vec<String> = vips.iter().map(|vip| format!("{:?}", vip.to_string())).collect();
    format!("[[pool]]\nname = \"web\"\nranges = [{}]\n", ranges.join(", "))
}

pub(crate) fn pools_of_a_config_map_are_followed_and_a_wrong_one_changes_nothing(
    case: &mut Case<'_>,
) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let (first, second) = (case.vip(0), case.vip(1));
    let name = format!("{}/pools", case.namespace);
    let flags = ["--config-map", &name, "--namespace", &case.namespace, "--lease", "kube-system/llb.dev-llb"];
    let kubeconfig = case.cluster.agent_kubeconfig().display().to_string();
    let agent =
        llb_tests::Agent::spawn(&case.balancer, &[&["--kubeconfig", &kubeconfig], &flags[..]].concat())?;

    // Without the right and without the ConfigMap it says what is missing, and serves nothing.
    case.apply_service("first", &json!({}))?;
    wait_until(LIMIT, "the missing right to be named", || {
        Ok(agent.log().contains("configmaps (pools) in namespace").then_some(()))
    })?;
    case.cluster.apply(&case.namespace, &role(case))?;
    let problem = agent.wait_for_problem(LIMIT, "InvalidConfiguration")?;
    assert!(problem.contains("there is no such ConfigMap; create it"), "{problem}");
    assert!(agent.get("/readyz").is_err());

    write(case, &pool(&[first]))?;
    case.wait_for_status("first", &[first])?;
    case.ask_often(SocketAddr::new(first, ECHO_PORT))?;
    case.apply_service("second", &json!({}))?;
    case.wait_for_event("second", "SyncLoadBalancerFailed")?;

    write(case, "[[pool]]\nname = \"web\"\nrange = [\"192.0.2.1\"]\n")?;
    let problem = agent.wait_for_problem(LIMIT, "InvalidConfiguration")?;
    assert!(problem.contains(":3: pool.range: a pool has no such key; did you mean ranges?"), "{problem}");
    case.ask_often(SocketAddr::new(first, ECHO_PORT))?;

    write(case, &pool(&[first, second]))?;
    case.wait_for_status("second", &[second])?;
    case.ask_often(SocketAddr::new(second, ECHO_PORT))?;

    case.kubectl(&["delete", "configmap", "pools"])?;
    let problem = agent.wait_for_problem(LIMIT, "InvalidConfiguration")?;
    assert!(problem.contains("its last pools without mistakes stay in use"), "{problem}");
    case.ask_often(SocketAddr::new(second, ECHO_PORT)).map(drop)
}
