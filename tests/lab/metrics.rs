// SPDX-License-Identifier: Apache-2.0
//! What a monitoring system gets from a running agent, with both planes at work: promtool finds nothing wrong with it, and
//! the alerts and the dashboard in `deploy/` use no metric that is not there. Which alert comes when is tested by
//! `promtool test rules`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use llb_tests::client::http_get;
use llb_tests::manifests::{PortSpec, annotated_service};
use llb_tests::wait_until;
use serde_json::Value;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

fn deploy(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    path.canonicalize().unwrap().display().to_string()
}

/// Runs promtool. It must find nothing, and say so.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("llb_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// What the queries of a dashboard use: those of its panels and of its variables.
fn queries(dashboard: &Value) -> Vec<&str> {
    match dashboard {
        Value::Array(all) => all.iter().flat_map(queries).collect(),
        Value::Object(fields) => {
            let own = ["expr", "query"].iter().filter_map(|name| fields.get(*name)?.as_str());
            own.chain(fields.values().flat_map(queries)).collect()
        }
        _ => Vec::new(),
    }
}

/// Both planes serve, and there is a problem.
fn scraped() -> String {
    let mut setup =
        Setup::with_arguments(Plane::Tc, &["--pool", "web=192.0.2.192/28", "--allow-vips", "192.0.2.0/24"]);
    setup.serve_http(HTTP.node_port);
    let [relayed, vip, away] = [1, 0, 2].map(|n| setup.lab.vip(n));
    setup.serve("web", &[vip], &[HTTP]);
    let text = annotated_service("relayed", &[relayed], &[HTTP], "llb.dev/balance: least-connections");
    setup.manifests.write("relayed.yaml", &text).unwrap();
    setup.wait_serving(relayed, HTTP.port, HTTP.protocol);
    let text = annotated_service("wrong", &[away], &[HTTP], "llb.dev/mode: sideways");
    setup.manifests.write("wrong.yaml", &text).unwrap();
    setup.agent.wait_for_problem(LIMIT, "InvalidValue").unwrap();
    wait_until(LIMIT, "connections of both planes", || {
        for vip in [vip, relayed] {
            http_get(setup.client(), SocketAddr::new(vip, HTTP.port))?;
        }
        let metrics = setup.agent.get("/metrics")?;
        let has = |plane: &str| {
            metrics.lines().any(|line| {
                line.starts_with("llb_backend_connections_total{")
                    && line.contains(plane)
                    && !line.ends_with(" 0")
            })
        };
        anyhow::ensure!(has("plane=\"packet\"") && has("plane=\"relay\""), "{metrics}");
        Ok(Some(metrics))
    })
    .unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn promtool_finds_nothing_and_what_alerts_and_dashboard_use_is_there() {
    let metrics = scraped();
    let said = promtool(&["check", "metrics"], &metrics);
    assert_eq!(said, "", "in\n{metrics}");
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let present: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let rules = fs::read_to_string(deploy("prometheus/rules.yaml")).unwrap();
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(deploy("grafana/llb.json")).unwrap()).unwrap();
    let used = [rules, queries(&dashboard).join("\n")].map(|text| names(&text));
    for used in used {
        let missing: Vec<_> = used.iter().filter(|name| !present.contains(name.as_str())).collect();
        assert!(used.len() > 5 && missing.is_empty(), "{missing:?} are not in\n{metrics}");
    }
}

#[test]
#[ignore = "needs promtool: cargo xtask test"]
fn each_alert_comes_when_it_must_and_only_then() {
    promtool(&["check", "rules", &deploy("prometheus/rules.yaml")], "");
    promtool(&["test", "rules", &deploy("prometheus/rules_test.yaml")], "");
    let tested = fs::read_to_string(deploy("prometheus/rules_test.yaml")).unwrap();
    let rules = fs::read_to_string(deploy("prometheus/rules.yaml")).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    for alert in &alerts {
        let is_expected =
            tested.split("alertname: ").any(|rest| rest.starts_with(alert) && rest.contains("exp_alerts"));
        assert!(is_expected, "no test expects {alert}");
    }
    assert!(alerts.len() > 5);
}
