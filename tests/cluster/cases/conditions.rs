// SPDX-License-Identifier: Apache-2.0
//! What a user who has only kubectl learns about a Service: conditions and Events.

use anyhow::{Result, anyhow, ensure};
use llb_tests::wait_until;
use serde_json::{Value, json};

use crate::case::{Case, ECHO_PORT, LIMIT};

const PROGRAMMED: &str = "llb.dev/Programmed";
const REACHABLE: &str = "llb.dev/Reachable";

pub(crate) fn kubectl_says_why_a_service_is_served_degraded_or_refused(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1"])?;
    let pool = format!("{}-{}", case.vip(0), case.vip(1));
    let agent = case.agent(&["--pool", &pool])?;
    let state = agent.state()?;
    let name = state["writer"]["identity"].as_str().unwrap_or_default();

    case.apply_service("served", &json!({}))?;
    for condition in [PROGRAMMED, REACHABLE] {
        let wait = format!("--for=condition={condition}");
        case.kubectl(&["wait", &wait, "service/served", "--timeout=60s"])?;
    }
    let vip = case.published("served")?.pop_first().ok_or_else(|| anyhow!("it has no address"))?;
    let served = condition(case, "served", PROGRAMMED)?;
    assert_eq!(served, format!("True Programmed: {name} serves {vip}"));

    let sctp = json!([{"name": "web", "port": ECHO_PORT}, {"name": "s", "port": 9999, "protocol": "SCTP"}]);
    case.apply_service("degraded", &json!({"ports": sctp}))?;
    wait_for_condition(case, "degraded", PROGRAMMED, &["False PortsNotServed", "9999/SCTP"])?;
    wait_for_condition(case, "degraded", REACHABLE, &["True"])?;
    let message = case.wait_for_event("degraded", "UnsupportedProtocol")?;
    assert!(message.contains("is not forwarded"), "{message}");

    case.apply_service("refused", &json!({"loadBalancerIP": "203.0.113.77"}))?;
    case.apply_service("pending", &json!({}))?;
    wait_for_condition(case, "refused", PROGRAMMED, &["False AddressNotAllowed", "203.0.113.77"])?;
    wait_for_condition(case, "pending", PROGRAMMED, &["False PoolExhausted"])?;
    for (service, text) in [("refused", "203.0.113.77"), ("pending", "is taken")] {
        let message = case.wait_for_event(service, "SyncLoadBalancerFailed")?;
        assert!(message.contains(text), "{message}");
        assert_eq!(case.writes_of_llb(service)?.0, 1, "status writes for {service}");
        assert_eq!(case.events(service)?.len(), 1, "{:?}", case.events(service)?);
    }

    // A condition of another program stays.
    let other = json!({"type": "example.com/Checked", "status": "True", "reason": "Test", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let patch = json!({"status": {"conditions": [other]}}).to_string();
    case.kubectl(&["patch", "service", "served", "--subresource=status", "--type=strategic", "-p", &patch])?;
    case.cluster.delete_pod(&case.namespace, "echo", "node-1")?;
    wait_for_condition(case, "served", REACHABLE, &["False NoBackends"])?;
    wait_for_condition(case, "served", PROGRAMMED, &["True"])?;
    assert!(condition(case, "served", "example.com/Checked")?.starts_with("True"));
    case.patch_service("served", &json!({"spec": {"type": "ClusterIP"}}))?;
    wait_until(LIMIT, "llb's conditions to be gone", || {
        let left = conditions(case, "served")?;
        ensure!(left.iter().all(|known| known["type"] == "example.com/Checked"), "{left:?}");
        Ok(Some(()))
    })?;
    assert!(condition(case, "served", "example.com/Checked")?.starts_with("True"));
    Ok(())
}

fn wait_for_condition(case: &Case<'_>, service: &str, condition_type: &str, words: &[&str]) -> Result<()> {
    wait_until(LIMIT, &format!("{condition_type} of {service} to have {words:?}"), || {
        let text = condition(case, service, condition_type)?;
        if words.iter().all(|word| text.contains(word)) { Ok(Some(())) } else { Err(anyhow!("{text}")) }
    })
}

/// A condition as `STATUS REASON: MESSAGE`; empty if it is missing.
fn condition(case: &Case<'_>, service: &str, condition_type: &str) -> Result<String> {
    let all = conditions(case, service)?;
    let found = all.iter().find(|known| known["type"] == condition_type);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(found.map_or_else(String::new, |known| {
        format!("{} {}: {}", text(&known["status"]), text(&known["reason"]), text(&known["message"]))
    }))
}

fn conditions(case: &Case<'_>, service: &str) -> Result<Vec<Value>> {
    Ok(case.service(service)?["status"]["conditions"].as_array().cloned().unwrap_or_default())
}
