// SPDX-License-Identifier: Apache-2.0
//! What an operator sees of the traffic: rows, rates, the last minutes, links and maps.

use std::net::SocketAddr;

use llb_tests::client::http_get;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{agent, wait_until};
use serde_json::Value;

use super::trouble::HEALING_LIMIT;
use crate::plane::Plane;
use crate::setup::{NODES, Setup, frontend};

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

/// The answer of the API.
fn answer(setup: &Setup, path: &str) -> Value {
    serde_json::from_str(&setup.agent.get(path).unwrap()).unwrap()
}

/// The row of the only frontend of the Service `web`.
fn row(setup: &Setup) -> Value {
    answer(setup, "/api/v1/services/default/web?over=5")["services"][0]["frontends"][0].take()
}

/// The number of a row's traffic by the second; 0 if it is not known.
fn rate(row: &Value, what: &str) -> f64 {
    row["traffic"]["per_second"][what].as_f64().unwrap_or(0.0)
}

fn backend(row: &Value, address: SocketAddr) -> &Value {
    let mut rows = row["backends"].as_array().unwrap().iter();
    rows.find(|row| row["backend"] == address.to_string())
        .unwrap_or_else(|| panic!("no {address} in {row:#}"))
}

/// Sends requests until a row of the frontend satisfies `holds`. Some of them may fail.
fn ask_until(setup: &Setup, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    wait_until(HEALING_LIMIT, what, || {
        let _ = http_get(setup.client(), vip);
        let row = row(setup);
        anyhow::ensure!(holds(&row), "{row:#}");
        Ok(Some(row))
    })
    .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", setup.agent.log()))
}

/// A line of a subcommand that asks this agent, as words by the words of its head.
fn listed(setup: &Setup, arguments: &[&str], word: &str) -> Vec<(String, String)> {
    let program = agent::binary().unwrap().display().to_string();
    let line: Vec<&str> = std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
    let text = setup.lab.balancer().output(&line).unwrap();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let line = text.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("no {word} in {text}"));
    words(text.lines().next().unwrap()).into_iter().zip(words(line)).collect()
}

fn cell(line: &[(String, String)], head: &str) -> String {
    line.iter().find(|(name, _)| name == head).unwrap_or_else(|| panic!("no {head} in {line:?}")).1.clone()
}

pub(crate) fn traffic_its_balance_and_failures_are_seen(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let nodes = NODES.map(|node| setup.lab.host(node).at(HTTP.node_port));
    let row = ask_until(&setup, "traffic to both nodes", |row| {
        let of_both = nodes.iter().all(|node| rate(backend(row, *node), "new") > 0.0);
        let is_all = ["new", "bytes_in", "bytes_out"].iter().all(|what| rate(row, what) > 0.0);
        of_both && is_all && has_what_its_backends_have(row, &nodes)
    });
    let totals = &row["traffic"];
    assert!(totals["bytes_out"].as_u64() > totals["new"].as_u64(), "{row:#}");

    let wide = listed(&setup, &["list", "-o", "wide"], "default/web");
    assert!(cell(&wide, "NEW/s") != "0" && cell(&wide, "OUT/s") != "0B", "{wide:?}");
    for node in nodes {
        let line = listed(&setup, &["list", "default/web"], &node.to_string());
        assert!(cell(&line, "SHARE").ends_with('%') && cell(&line, "NEW/s") != "0", "{line:?}");
    }
    past_is_kept(&setup);
    links_and_limits_are_told(&setup, plane);

    setup.stop_servers_on(NODES[0]);
    let row = ask_until(&setup, "failures", |row| rate(backend(row, nodes[0]), "failures") > 0.0);
    assert!(rate(&row, "failures") > 0.0 && rate(backend(&row, nodes[1]), "failures") == 0.0, "{row:#}");
}

/// A frontend has as many new connections as its backends have together. The relay counts one of a frontend before that of the
/// backend, so the two that a sample cuts may differ.
fn has_what_its_backends_have(row: &Value, nodes: &[SocketAddr]) -> bool {
    let over = |row: &Value| row["traffic"]["per_second"]["over_seconds"].as_f64();
    let sum: f64 = nodes.iter().map(|node| rate(backend(row, *node), "new")).sum();
    let Some(seconds) = over(row) else { return false };
    let same_seconds = nodes.iter().all(|node| over(backend(row, *node)) == Some(seconds));
    same_seconds && (sum - rate(row, "new")).abs() <= 2.0 / seconds
}

/// The points of the last seconds, of this frontend and of all together.
fn past_is_kept(setup: &Setup) {
    let name = frontend(setup.vip(), HTTP.port, HTTP.protocol);
    for path in [format!("/api/v1/history?frontend={name}"), "/api/v1/history".to_owned()] {
        let past = answer(setup, &path);
        let points = past["new"].as_array().unwrap();
        assert!(points.iter().any(|new| new.as_f64().unwrap() > 0.0), "{past:#}");
        assert_eq!(
            (&past["step_seconds"], past["bytes_out"].as_array().unwrap().len()),
            (&1.into(), points.len())
        );
    }
}

fn links_and_limits_are_told(setup: &Setup, plane: Plane) {
    let found = answer(setup, "/api/v1/links");
    let fill = |kind: &str, name: &str| {
        let rows = found[kind].as_array().unwrap();
        let row =
            rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {found:#}"));
        (row["used"].as_u64().unwrap(), row["most"].as_u64().unwrap())
    };
    assert!(fill("limits", "tcp_connections").1 > 0, "{found:#}");
    if plane.name(HTTP.protocol) != "packet" {
        assert_eq!(found["links"], Value::Array(Vec::new()));
        return;
    }
    let link = &found["links"][0];
    assert_eq!(link["link"], "eth0");
    assert!(link["packets_per_second"].as_f64() > Some(0.0) && link["bytes"].as_u64() > Some(0), "{found:#}");
    assert_eq!(fill("maps", "backends").0, NODES.len() as u64);
    assert!(fill("maps", "flows").1 > 1_000, "{found:#}");
    a_drop_is_told(setup);
}

/// A client asks for a Service that admits only others.
fn a_drop_is_told(setup: &Setup) {
    let vip = setup.lab.vip(1);
    let yaml = manifests::service("closed", &[vip], &[HTTP]);
    let field = "  loadBalancerSourceRanges: [198.51.100.0/28]\n";
    setup.manifests.write("closed.yaml", &format!("{yaml}{field}")).unwrap();
    setup.wait_serving(vip, HTTP.port, HTTP.protocol);
    assert!(http_get(setup.client(), SocketAddr::new(vip, HTTP.port)).is_err());
    wait_until(HEALING_LIMIT, "the drop", || {
        let found = answer(setup, "/api/v1/links");
        let mut rows = found["reasons"].as_array().unwrap().iter();
        let row = rows.find(|row| row["reason"] == "source_denied");
        let is_told = row.is_some_and(|row| row["verdict"] == "drop" && row["packets"].as_u64() > Some(0));
        anyhow::ensure!(is_told, "{found:#}");
        Ok(Some(()))
    })
    .unwrap();
}
