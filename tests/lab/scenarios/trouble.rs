// SPDX-License-Identifier: Apache-2.0
//! Failures around the agent: nodes, ports, files.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use llb_tests::client::{Load, count_by_name, http_get};
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{agent, wait_until};
use serde_json::Value;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, is_free_of_problems};

/// A failed action, or a node that failed, is tried again after a back-off of at most this.
pub(super) const HEALING_LIMIT: Duration = Duration::from_secs(60);

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

pub(crate) fn no_request_fails_when_a_node_dies(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let load = Load::start(setup.client(), vip);
    load.wait_for_more(100, LIMIT).unwrap();
    setup.stop_servers_on("node-1");
    load.wait_for_more(300, LIMIT).unwrap();
    let tally = load.stop().unwrap();
    assert!(tally.total() >= 400, "{tally:?}");
    assert_eq!(tally.failures, Vec::<String>::new(), "of {}", tally.total());
    assert!(tally.answers["node-1"] > 0 && tally.answers["node-2"] > 0, "{:?}", tally.answers);

    // The agent uses it again by itself.
    let node = setup.lab.host("node-1");
    let _back = llb_tests::Server::http(node, node.at(30080), "node-1").unwrap();
    wait_until(HEALING_LIMIT, "an answer from the node that came back", || {
        Ok((http_get(setup.client(), vip)?.name == "node-1").then_some(()))
    })
    .unwrap();
}

pub(crate) fn no_request_fails_when_a_node_goes_silent(plane: Plane) {
    // Shorter than the client's limit of 5 s.
    let mut setup = Setup::with_arguments(plane, &["--connect-timeout", "1s"]);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let counts = count_by_name(40, || http_get(setup.client(), vip)).unwrap();
    assert_eq!(counts.len(), 2, "{counts:?}");
    setup.lab.host("node-1").unplug().unwrap();
    let counts = count_by_name(40, || http_get(setup.client(), vip)).unwrap();
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("node-2".to_owned(), 40)]);
}

/// kube-proxy does this for a Service without endpoints: an ICMP error instead of a reset.
pub(crate) fn no_request_fails_when_a_node_rejects_connections(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[HTTP]);
    let rules = "add table inet closed; \
        add chain inet closed input { type filter hook input priority 0; }; \
        add rule inet closed input tcp dport 30080 reject with icmpx type port-unreachable";
    setup.lab.host("node-1").output(&["nft", rules]).unwrap();
    for vip in vips {
        let counts = count_by_name(40, || http_get(setup.client(), SocketAddr::new(vip, 80))).unwrap();
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("node-2".to_owned(), 40)]);
    }
}

pub(crate) fn without_any_node_connections_fail_at_once_until_one_returns(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let error = http_get(setup.client(), vip).unwrap_err();
    assert!(!format!("{error:#}").contains("timed out"), "must fail at once: {error:#}");
    setup.serve_http(30080);
    wait_until(HEALING_LIMIT, "an answer", || http_get(setup.client(), vip).map(Some)).unwrap();
}

pub(crate) fn a_port_in_use_is_reported_and_served_once_it_is_free(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    // Another program listens on port 80 of all addresses of the balancer.
    let wildcard = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 80));
    let other_program = setup.lab.balancer().run_inside(|| TcpListener::bind(wildcard)).unwrap().unwrap();
    setup.write_service("web", &[setup.vip()], &[HTTP]);
    let problem = setup.agent.wait_for_problem(LIMIT, "ActionFailed").unwrap();
    assert!(problem.contains("in use") && problem.contains("192.0.2.100:80"), "{problem}");
    // This test is root and has all rights, so the agent cannot see more of it.
    assert!(problem.contains("one of user 0;"), "{problem}");

    let other = setup.lab.vip(1);
    setup.serve("other", &[other], &[PortSpec::tcp("http", 8080, 30080)]);
    http_get(setup.client(), SocketAddr::new(other, 8080)).unwrap();

    drop(other_program);
    let vip = SocketAddr::new(setup.vip(), 80);
    wait_until(HEALING_LIMIT, "an answer", || http_get(setup.client(), vip).map(Some)).unwrap();
    setup.agent.wait_for_state(LIMIT, "no problems", is_free_of_problems).unwrap();
}

pub(crate) fn pods_without_a_route_are_said_and_served_once_there_is_one(plane: Plane) {
    let setup = Setup::new(plane);
    let node = setup.lab.host("node-1");
    let pod = Ipv4Addr::new(10, 244, 1, 7);
    node.ip(&format!("address add {pod}/32 dev lo")).unwrap();
    let _pod = llb_tests::Server::http(node, (pod, 8080).into(), "pod").unwrap();
    let slice = manifests::endpoints("web", 8080, &[(pod, true)]);
    let slice = slice.replace("  - {addresses", "  - {nodeName: node-1, addresses");
    let service = manifests::service("web", &[setup.vip()], &[HTTP]).replace(", nodePort: 30080", "");
    setup.manifests.write("web.yaml", &format!("{slice}---\n{service}")).unwrap();
    let problem = setup.agent.wait_for_problem(LIMIT, "NoRouteToPods").unwrap();
    assert!(problem.contains("10.244.1.7") && problem.contains("--backends endpoints"), "{problem}");
    // A port that is not served keeps its VIP from being published; another one does not wait for it.
    setup.serve("other", &[setup.lab.vip(1)], &[HTTP]);
    let published = |state: &Value| state["observed"]["statuses"]["default/web"]["vips"].is_array();
    setup
        .agent
        .wait_for_state(LIMIT, "other to be published", |state| {
            assert!(!published(state), "{state}");
            state["observed"]["statuses"]["default/other"]["vips"].is_array()
        })
        .unwrap();

    setup.lab.balancer().ip(&format!("route add 10.244.1.0/24 via {}", node.ipv4())).unwrap();
    setup.agent.wait_for_state(HEALING_LIMIT, "web to be published", published).unwrap();
    let vip = SocketAddr::new(setup.vip(), 80);
    assert_eq!(http_get(setup.client(), vip).unwrap().name, "pod");
}

pub(crate) fn the_last_good_content_of_a_broken_manifest_stays_in_use(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let good = manifests::service("web", &[setup.vip()], &[HTTP]);
    let line = 1 + good.lines().position(|line| line.contains("type: LoadBalancer")).unwrap();
    // A plain scalar cannot start with "@" (YAML 1.2.2, section 7.3.3).
    setup.manifests.write("web.yaml", &good.replace("type: Load", "type: @Load")).unwrap();
    let problem = setup.agent.wait_for_problem(LIMIT, "InvalidManifest").unwrap();
    assert!(names_line(&problem, line), "line {line} of web.yaml: {problem}");
    http_get(setup.client(), vip).unwrap();

    // Changes of other files still count.
    let other = setup.lab.vip(1);
    setup.serve("other", &[other], &[HTTP]);
    http_get(setup.client(), SocketAddr::new(other, 80)).unwrap();
    http_get(setup.client(), vip).unwrap();

    setup.manifests.write("web.yaml", &good).unwrap();
    let state = setup
        .agent
        .wait_for_state(LIMIT, "the problem to be gone", |state| {
            agent::problem(state, "InvalidManifest").is_none()
        })
        .unwrap();
    assert!(is_free_of_problems(&state), "{state:#}");
    http_get(setup.client(), vip).unwrap();
}

pub(crate) fn the_last_good_content_of_missing_manifests_stays_in_use(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let folder = setup.manifests.path().to_owned();
    let elsewhere = folder.with_extension("elsewhere");
    fs::rename(&folder, &elsewhere).unwrap();
    let problem = setup.agent.wait_for_problem(LIMIT, "InvalidManifest").unwrap();
    assert!(problem.contains(folder.to_str().unwrap()), "{problem}");
    http_get(setup.client(), vip).unwrap();

    fs::rename(&elsewhere, &folder).unwrap();
    setup.agent.wait_for_state(LIMIT, "no problems", is_free_of_problems).unwrap();
    // Changes in the folder that came back count again.
    let other = setup.lab.vip(1);
    setup.serve("other", &[other], &[HTTP]);
    http_get(setup.client(), SocketAddr::new(other, 80)).unwrap();
    http_get(setup.client(), vip).unwrap();
}

/// Whether it names `web.yaml:12` or `web.yaml ... line 12`, and not line 123.
fn names_line(problem: &str, line: usize) -> bool {
    [format!("web.yaml:{line}"), format!("line {line}")].iter().any(|text| {
        problem
            .match_indices(text)
            .any(|(at, _)| !problem[at + text.len()..].starts_with(|next: char| next.is_ascii_digit()))
    }) && problem.contains("web.yaml")
}
