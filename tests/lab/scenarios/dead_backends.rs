// SPDX-License-Identifier: Apache-2.0
//! What llb says about backends that are dead, and about addresses and links over which nothing is reached.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use llb_tests::client::http_get;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Server, agent, wait_until};
use serde_json::Value;

use super::trouble::HEALING_LIMIT;
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup, frontend, is_free_of_problems};

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

/// What `/state` says about a dead backend; null if it is not dead.
fn failure(state: &Value, vip: IpAddr, backend: SocketAddr) -> Value {
    state["failed_backends"][frontend(vip, HTTP.port, HTTP.protocol)][backend.to_string()].clone()
}

/// Sends requests until `/state` satisfies `holds`. Some of them may fail.
fn ask_until(setup: &Setup, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    wait_until(HEALING_LIMIT, what, || {
        let _ = http_get(setup.client(), vip);
        let state = setup.agent.state()?;
        anyhow::ensure!(holds(&state), "{state:#}");
        Ok(Some(state))
    })
    .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", setup.agent.log()))
}

/// The text of `explain` for the Service `web`.
fn explained(setup: &Setup) -> String {
    setup.agent.get("/explain/default/web").unwrap()
}

fn wait_log(setup: &Setup, limit: Duration, text: &str) {
    wait_until(limit, &format!("a log line with {text:?}"), || {
        let log = setup.agent.log();
        anyhow::ensure!(log.contains(text), "{log}");
        Ok(Some(()))
    })
    .unwrap();
}

pub(crate) fn a_dead_backend_is_said_until_it_answers_again(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let (vip, node) = (setup.vip(), setup.lab.host("node-1").clone());
    let backend = node.at(HTTP.node_port);
    assert!(!explained(&setup).contains("dead for"), "{}", explained(&setup));
    setup.stop_servers_on("node-1");
    let state = ask_until(&setup, "the backend to be dead", |state| !failure(state, vip, backend).is_null());
    assert_eq!(failure(&state, vip, backend)["reason"], "refused", "{state:#}");
    assert!(is_free_of_problems(&state), "the other backend lives: {state:#}");
    let text = explained(&setup);
    let dead = text.lines().find(|line| line.contains(&backend.to_string())).unwrap();
    assert!(dead.contains(" dead for ") && dead.contains(" s: it refused a connection"), "{text}");
    wait_log(&setup, LIMIT, "backend is dead: it refused a connection");
    wait_listed(&setup, backend, "dead");
    assert!(setup.agent.log().contains(&backend.to_string()), "{}", setup.agent.log());
    assert_eq!(setup.agent.metric("llb_failed_backends").unwrap(), 1);
    let labels = format!(
        "namespace=\"default\",service=\"web\",frontend=\"{}\",backend=\"{backend}\",plane=\"{}\"",
        frontend(vip, HTTP.port, HTTP.protocol),
        if plane.name(HTTP.protocol) == "packet" { "packet" } else { "relay" }
    );
    let metrics = setup.agent.get("/metrics").unwrap();
    let value =
        |name: &str| metrics.lines().find_map(|line| line.strip_prefix(&format!("{name}{{{labels}}} ")));
    assert!(value("llb_backend_failures_total").is_some_and(|failures| failures != "0"), "{metrics}");
    assert_eq!(value("llb_backend_up"), Some("0"), "{metrics}");

    let _back = Server::http(&node, backend, "node-1").unwrap();
    ask_until(&setup, "the backend to live", |state| failure(state, vip, backend).is_null());
    wait_log(&setup, LIMIT, "backend answers again");
    assert!(!explained(&setup).contains("dead for"), "{}", explained(&setup));
    wait_listed(&setup, backend, "up");
    let changes = command(&setup, &["changes"]);
    let told = |what: &str| {
        let text = format!("Service default/web  192.0.2.100:80/TCP: backend {backend} {what}");
        changes.find(&text).unwrap_or_else(|| panic!("no line has {text:?}:\n{changes}"))
    };
    assert!(told("is dead: it refused a connection") < told("answers again"), "{changes}");
}

/// The output of a subcommand that asks this agent.
fn command(setup: &Setup, arguments: &[&str]) -> String {
    let program = agent::binary().unwrap().display().to_string();
    let line: Vec<&str> = std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
    setup.lab.balancer().output(&line).unwrap()
}

/// Waits until `list` has this backend of the Service `web` in a state, with the time since when.
fn wait_listed(setup: &Setup, backend: SocketAddr, state: &str) {
    wait_until(LIMIT, &format!("{backend} {state} in the list"), || {
        let list = command(setup, &["list", "default/web"]);
        let backend = backend.to_string();
        let line: Vec<&str> = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.get(1) == Some(&backend.as_str()))
            .unwrap_or_default();
        anyhow::ensure!(line.get(2) == Some(&state) && line.get(3) != Some(&"-"), "{list}");
        Ok(Some(()))
    })
    .unwrap();
    let all = command(setup, &["list", "--problems", "-o", "name"]);
    assert_eq!(all, if state == "up" { "" } else { "default/web\n" });
}

pub(crate) fn a_frontend_without_a_living_backend_is_a_problem_until_one_answers(plane: Plane) {
    const REASON: &str = "BackendsUnreachable";
    let mut setup = Setup::new(plane);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let has_problem = |state: &Value| agent::problem(state, REASON).is_some();
    let state = ask_until(&setup, "the problem", has_problem);
    let problem = agent::problem(&state, REASON).unwrap();
    assert_eq!(problem["subject"], "Service default/web");
    let ready = setup.agent.get("/readyz").unwrap();
    assert!(ready.starts_with("ready\n") && ready.contains(REASON), "{ready}");
    assert_eq!(explained(&setup).matches("dead for").count(), NODES.len(), "{}", explained(&setup));
    wait_log(&setup, LIMIT, "no backend of 192.0.2.100:80/TCP can be reached");

    setup.serve_http(HTTP.node_port);
    ask_until(&setup, "the problem to be over", |state| !has_problem(state));
    wait_log(&setup, LIMIT, "over: no backend of 192.0.2.100:80/TCP can be reached");
    assert!(!setup.agent.get("/readyz").unwrap().contains(REASON));
}

/// Nobody asks for the Services meanwhile: the packet plane looks for its neighbours itself. This is so in
/// both modes.
pub(crate) fn a_silent_node_is_dead_without_any_request(plane: Plane) {
    let setup = Setup::new(plane);
    let vips = [setup.vip(), setup.lab.vip(1)];
    setup.serve("web", &vips[..1], &[HTTP]);
    let direct = manifests::annotated_service("direct", &vips[1..], &[HTTP], "llb.dev/mode: dsr");
    setup.manifests.write("direct.yaml", &direct).unwrap();
    setup.wait_serving(vips[1], HTTP.port, HTTP.protocol);
    let node = setup.lab.host("node-1").clone();
    let backend = node.at(HTTP.node_port);
    let dead = |state: &Value| vips.map(|vip| failure(state, vip, backend)["reason"].clone());
    node.unplug().unwrap();
    let both = |state: &Value| dead(state).iter().all(|reason| reason == "no_neighbour");
    let state = setup.agent.wait_for_state(LIMIT, "the node to be dead", both).unwrap();
    assert!(is_free_of_problems(&state), "the other node lives: {state:#}");
    wait_log(&setup, LIMIT, "backend is dead: no neighbour");
    assert!(explained(&setup).contains("no neighbour"), "{}", explained(&setup));
    node.plug_in().unwrap();
    let none = |state: &Value| dead(state).iter().all(Value::is_null);
    setup.agent.wait_for_state(HEALING_LIMIT, "the node to live", none).unwrap();
    wait_log(&setup, LIMIT, "backend answers again");
}

pub(crate) fn an_own_address_that_is_gone_is_a_problem_until_it_is_back(plane: Plane) {
    const REASON: &str = "AddressGone";
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.write_service("web", &[], &[HTTP]);
    let own = setup.lab.balancer().ipv4();
    setup.wait_serving(own.into(), HTTP.port, HTTP.protocol);
    let vip = SocketAddr::new(own.into(), HTTP.port);
    wait_until(LIMIT, "an answer", || http_get(setup.client(), vip).map(Some)).unwrap();
    assert!(
        explained(&setup).contains("(the machine's own address on eth0), published"),
        "{}",
        explained(&setup)
    );
    setup.lab.balancer().ip(&format!("addr del {own}/24 dev eth0\n")).unwrap();
    let problem = setup.agent.wait_for_problem(LIMIT, REASON).unwrap();
    assert!(problem.contains(&own.to_string()), "{problem}");
    assert!(setup.agent.get("/readyz").unwrap().contains(REASON));
    assert!(explained(&setup).contains("(not on a link now)"), "{}", explained(&setup));
    // A problem of a Service is told only if it lasts.
    wait_log(&setup, LIMIT, "was an own address of a link device and is gone");
    setup.lab.balancer().ip(&format!("addr add {own}/24 dev eth0\n")).unwrap();
    setup.agent.wait_for_state(HEALING_LIMIT, "no problem", is_free_of_problems).unwrap();
    wait_log(&setup, LIMIT, "over: its VIP ");
    wait_until(LIMIT, "an answer", || http_get(setup.client(), vip).map(Some)).unwrap();
}

/// `--datapath xdp` on a veth whose other end has no program: what XDP sends back is lost.
pub(crate) fn xdp_on_a_veth_that_loses_its_packets_is_a_problem(plane: Plane) {
    const REASON: &str = "XdpLosesPackets";
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    http_get(setup.client(), vip).unwrap();
    assert!(is_free_of_problems(&setup.agent.state().unwrap()));

    setup.undo_preparation();
    let problem = setup.agent.wait_for_problem(LIMIT, REASON).unwrap();
    assert!(problem.contains("link eth0") && problem.contains("--datapath auto"), "{problem}");
    http_get(setup.client(), vip).unwrap_err();
    let ready = setup.agent.get("/readyz").unwrap();
    assert!(ready.starts_with("ready\n") && ready.contains(REASON), "{ready}");
    wait_log(&setup, LIMIT, "what XDP sends back by eth0 is lost");
    assert!(explained(&setup).contains(&format!("link eth0: problem {REASON}")), "{}", explained(&setup));
}
