// SPDX-License-Identifier: Apache-2.0
//! What others serve, and what Nodes report about themselves, is no work for llb.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use llb_tests::wait_until;
use serde_json::json;

use crate::case::{Case, ECHO_PORT, LIMIT};

const ROUNDS: &str = "llb_reconcile_rounds_total";

/// How often everything changes.
const CHANGES: usize = 30;

/// Rounds that have other reasons: the loop reads links and addresses again now and then.
const OTHER_ROUNDS: u64 = 10;

/// A Service of others, and a slice of it.
const OTHERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {ports: [{port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: theirs}
spec: {type: LoadBalancer, loadBalancerClass: example.org/other, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{port: 5432}]
endpoints: [{addresses: [198.51.100.9]}]
";

pub(crate) fn changes_of_others_start_no_round_and_no_write(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    case.cluster.apply(&case.namespace, OTHERS)?;
    let agent = case.agent(&[])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"loadBalancerIP": vip}))?;
    case.wait_for_status("echo", &[vip])?;
    let file = case.balancer.directory().join(format!("{}.state/snapshot", case.balancer.name()));
    let read = || std::fs::read_to_string(&file).context("the saved snapshot");
    // The own status is the last change for the time being, and the file is written once more after it.
    let published = format!("\"ip\":\"{vip}\"");
    let saved = wait_until(LIMIT, "the status to be saved", || {
        Ok(Some(read()?).filter(|text| text.contains(&published)))
    })?;

    let rounds = agent.metric(ROUNDS)?;
    for change in 0..CHANGES {
        let value = format!("change={change}");
        for what in ["service/db", "service/theirs", "node/node-1"] {
            case.kubectl(&["annotate", "--overwrite", what, &value])?;
        }
        let endpoints = json!({"endpoints": [{"addresses": [format!("198.51.100.{}", 10 + change)]}]});
        case.kubectl(&["patch", "endpointslice", "db-1", "--type=merge", "-p", &endpoints.to_string()])?;
    }
    let rounds = agent.metric(ROUNDS)? - rounds;
    assert!(rounds <= OTHER_ROUNDS, "{rounds} rounds for {CHANGES} changes of four objects of others");
    assert_eq!(read()?, saved, "what is served has not changed");

    // The agent has seen all that: a change of its own comes later on the same watch.
    case.patch_service(
        "echo",
        &json!({"spec": {"ports": [{"port": ECHO_PORT + 1, "targetPort": ECHO_PORT}]}}),
    )?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT + 1))?;
    wait_until(LIMIT, "the change to be saved", || Ok((read()? != saved).then_some(())))
}

pub(crate) fn a_service_that_becomes_ours_has_its_endpoints(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let agent = case.agent(&["--backends", "endpoints"])?;
    let vip = case.vip(0);
    case.apply_service("echo", &json!({"type": "ClusterIP"}))?;
    let slices = || case.cluster.get(&case.namespace, &["endpointslices"]);
    wait_until(LIMIT, "the slice", || Ok((!slices()?["items"][0]["endpoints"].is_null()).then_some(())))?;
    case.patch_service("echo", &json!({"spec": {"type": "LoadBalancer", "loadBalancerIP": vip}}))?;
    case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
    drop(agent);
    Ok(())
}
