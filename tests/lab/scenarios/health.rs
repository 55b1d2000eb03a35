// SPDX-License-Identifier: Apache-2.0
//! Health checks with sockets: a backend that fails gets no new connections, and keeps those that it has.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::ensure;
use llb_tests::client::{connect, count_by_name, echo_on, http_get};
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Server, wait_until};

use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup};

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };
const ECHO: PortSpec<'static> = PortSpec { name: "echo", port: 7, protocol: "TCP", node_port: 30007 };
/// The `healthCheckNodePort`.
const HEALTH_PORT: u16 = 32000;

/// With two nodes, 40 random choices fall on one node in 1 of 2^39 runs.
const REQUESTS: usize = 40;
/// Connections that stay open. All of them are to one node in 1 of 2^15 runs.
const OPEN: usize = 16;

pub(crate) fn a_node_whose_health_check_fails_keeps_its_connections_but_gets_no_more(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--health-interval", "1s"]);
    setup.serve_http(HTTP.node_port);
    setup.serve_echo(ECHO.node_port);
    let health = |node: &str| {
        let host = setup.lab.host(node);
        Server::http(host, host.at(HEALTH_PORT), node).unwrap()
    };
    let [first, _second] = NODES.map(health);
    publish(&setup);
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    let both = BTreeSet::from(NODES.map(str::to_owned));
    wait_for_names(&setup, vip, &both);
    let echo = SocketAddr::new(setup.vip(), ECHO.port);
    let mut open: Vec<_> = (0..OPEN).map(|_| connect(setup.client(), echo).unwrap()).collect();
    open.iter_mut().for_each(|stream| echo_on(stream, b"before").unwrap());

    first.stop();
    let other = BTreeSet::from([NODES[1].to_owned()]);
    wait_for_names(&setup, vip, &other);
    setup.agent.wait_for_problem(LIMIT, "UnhealthyBackends").unwrap();
    let explained = setup.agent.get("/explain/default/web").unwrap();
    assert!(explained.contains("unhealthy: health check http:/ at"), "{explained}");
    open.iter_mut().for_each(|stream| echo_on(stream, b"while node-1 fails").unwrap());

    let _back = health(NODES[0]);
    wait_for_names(&setup, vip, &both);
    open.iter_mut().for_each(|stream| echo_on(stream, b"after").unwrap());
}

/// Publishes a Service with externalTrafficPolicy Local and an endpoint on each node.
fn publish(setup: &Setup) {
    let service = manifests::service("web", &[setup.vip()], &[HTTP, ECHO]);
    let policy = format!("spec:\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {HEALTH_PORT}\n");
    let endpoints: String = (1..)
        .zip(NODES)
        .map(|(number, node)| format!("  - {{addresses: [10.0.0.{number}], nodeName: {node}}}\n"))
        .collect();
    let ports = "[{name: http, port: 8080}, {name: echo, port: 8007}]";
    let slice = manifests::endpoints("web", 8080, &[])
        .replace("[{name: http, protocol: TCP, port: 8080}]", ports)
        + &endpoints;
    setup
        .manifests
        .write("web.yaml", &format!("{}---\n{slice}", service.replace("spec:\n", &policy)))
        .unwrap();
    for port in [HTTP, ECHO] {
        setup.wait_serving(setup.vip(), port.port, port.protocol);
    }
}

/// Waits until a row of requests, none of which fails, is answered by exactly these nodes.
fn wait_for_names(setup: &Setup, vip: SocketAddr, wanted: &BTreeSet<String>) {
    let what = format!("answers from {wanted:?} only");
    let result = wait_until(LIMIT, &what, || {
        let counts = count_by_name(REQUESTS, || http_get(setup.client(), vip))?;
        ensure!(counts.keys().eq(wanted), "{counts:?}");
        Ok(Some(()))
    });
    result.unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", setup.agent.log()));
}
