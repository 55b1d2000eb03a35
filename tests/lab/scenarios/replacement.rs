// SPDX-License-Identifier: Apache-2.0
//! Backends that are replaced, vanish or leave the rule while clients continue.

#![expect(clippy::disallowed_methods, reason = "tests wait and measure by the real clock")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use llb_tests::client::{Download, http_get};
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Host, Server, Wrk, wait_until};

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, frontend};

/// Number of backends while all are replaced, not counting the one that leaves.
const BACKENDS: usize = 2;
/// Number of backends overall.
const GENERATIONS: usize = 6;
/// Requests answered between two steps, so that each step happens under load.
const STEP_REQUESTS: u64 = 200;

const POD_PORT: u16 = 8080;
const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };
const FAILURES: &str = "llb_relay_connect_failures_total{protocol=\"tcp\"}";

/// A backend on a host of its own.
struct Pod {
    host: Host,
    server: Server,
}

impl Pod {
    fn start(setup: &mut Setup, number: usize) -> Self {
        let name = format!("pod-{number}");
        let host = setup.lab.add_host(&name).unwrap();
        let server = Server::http(&host, host.at(POD_PORT), &name).unwrap();
        Self { host, server }
    }
}

pub(crate) fn no_request_fails_while_every_backend_is_replaced(plane: Plane) {
    replace_all(plane, |setup, old, pods| {
        // At first it is not ready, then it is gone from the EndpointSlice. It answers all the time.
        tell(setup, pods, Some(old.host.ipv4()));
        answer_more(setup);
        tell(setup, pods, None);
        answer_more(setup);
        old.server.stop();
    });
}

pub(crate) fn no_request_fails_when_every_backend_dies_before_its_replacement_is_known(plane: Plane) {
    replace_all(plane, |setup, old, pods| {
        let before = setup.agent.metric(FAILURES).unwrap();
        old.server.stop();
        wait_until(LIMIT, "a connection to be refused", || {
            Ok((setup.agent.metric(FAILURES)? > before).then_some(()))
        })
        .unwrap();
        answer_more(setup);
        tell(setup, pods, None);
    });
}

/// Replaces each backend by a new one, under load. `leave` ends the old one.
fn replace_all(plane: Plane, leave: impl Fn(&Setup, Pod, &[Pod])) {
    let mut setup = Setup::with_arguments(plane, &["--backends", "endpoints"]);
    let mut pods: Vec<Pod> = (0..BACKENDS).map(|number| Pod::start(&mut setup, number)).collect();
    setup.write_service("web", &[setup.vip()], &[HTTP]);
    tell(&setup, &pods, None);
    setup.wait_serving(setup.vip(), 80, "TCP");
    let load = Wrk::start(setup.client(), SocketAddr::new(setup.vip(), 80)).unwrap();
    for number in BACKENDS..GENERATIONS {
        answer_more(&setup);
        pods.push(Pod::start(&mut setup, number));
        tell(&setup, &pods, None);
        answer_more(&setup);
        let old = pods.remove(0);
        leave(&setup, old, &pods);
    }
    answer_more(&setup);
    let outcome = load.stop().unwrap();
    println!("{} answered, {} connects failed", outcome.answered, setup.agent.metric(FAILURES).unwrap());
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {}", outcome.answered);
}

/// Writes the EndpointSlice: `pods` are ready, `leaving` is not. Waits until the agent has applied it.
fn tell(setup: &Setup, pods: &[Pod], leaving: Option<Ipv4Addr>) {
    let ready: Vec<Ipv4Addr> = pods.iter().map(|pod| pod.host.ipv4()).collect();
    tell_addresses(setup, &ready, leaving);
}

fn tell_addresses(setup: &Setup, ready: &[Ipv4Addr], leaving: Option<Ipv4Addr>) {
    let endpoints: Vec<(Ipv4Addr, bool)> =
        ready.iter().map(|&address| (address, true)).chain(leaving.map(|address| (address, false))).collect();
    setup.manifests.write("slice.yaml", &manifests::endpoints("web", POD_PORT, &endpoints)).unwrap();
    let frontend = frontend(setup.vip(), 80, "TCP");
    let expected: BTreeSet<String> = ready.iter().map(|address| format!("{address}:{POD_PORT}")).collect();
    let what = format!("the backends {expected:?}");
    let is_there = |state: &serde_json::Value| {
        let backends = state["observed"]["frontends"][&frontend]["rule"]["backends"].as_object();
        backends.is_some_and(|backends| backends.keys().cloned().collect::<BTreeSet<_>>() == expected)
    };
    setup.agent.wait_for_state(LIMIT, &what, is_there).unwrap();
}

/// Waits until some more requests were answered.
fn answer_more(setup: &Setup) {
    let goal = setup.agent.connections().unwrap() + STEP_REQUESTS;
    wait_until(LIMIT, &format!("{STEP_REQUESTS} more connections"), || {
        Ok((setup.agent.connections()? >= goal).then_some(()))
    })
    .unwrap();
}

pub(crate) fn a_backend_that_drops_all_packets_costs_a_request_at_most_one_attempt(plane: Plane) {
    // Shorter than the client's limit of 5 s.
    let mut setup = Setup::with_arguments(plane, &["--backends", "endpoints", "--connect-timeout", "1s"]);
    let pods: Vec<Pod> = (0..BACKENDS).map(|number| Pod::start(&mut setup, number)).collect();
    let silent = setup.lab.add_host("silent").unwrap();
    // Its host is up, but its answers never arrive.
    silent.ip(&format!("route add blackhole {}\n", setup.lab.balancer().ipv4())).unwrap();
    setup.write_service("web", &[setup.vip()], &[HTTP]);
    let addresses: Vec<Ipv4Addr> = pods.iter().map(|pod| pod.host.ipv4()).chain([silent.ipv4()]).collect();
    tell_addresses(&setup, &addresses, None);
    setup.wait_serving(setup.vip(), 80, "TCP");

    let vip = SocketAddr::new(setup.vip(), 80);
    let (started, mut failures) = (Instant::now(), 0);
    for request in 0..60 {
        http_get(setup.client(), vip).unwrap();
        let now = setup.agent.metric(FAILURES).unwrap();
        assert!(now - failures <= 1, "request {request} has waited for {} attempts", now - failures);
        failures = now;
    }
    assert!(failures >= 1, "the silent backend was never tried");
    let allowed = attempts_within(started.elapsed());
    assert!(failures <= allowed, "{failures} attempts, {allowed} were enough");
}

/// How often a backend that never answers may be tried within a time: at once, after 5 s, and each time after
/// twice the last pause (see "Limits" in docs/operations.md).
fn attempts_within(elapsed: Duration) -> u64 {
    let (mut attempts, mut pause, mut at) = (1, Duration::from_secs(5), Duration::ZERO);
    while at + pause <= elapsed {
        at += pause;
        pause *= 2;
        attempts += 1;
    }
    attempts
}

pub(crate) fn a_download_survives_the_removal_of_its_backend_from_the_rule(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--backends", "endpoints"]);
    let (old, new) = (Pod::start(&mut setup, 0), Pod::start(&mut setup, 1));
    setup.write_service("web", &[setup.vip()], &[HTTP]);
    tell_addresses(&setup, &[old.host.ipv4()], None);
    setup.wait_serving(setup.vip(), 80, "TCP");
    let vip = SocketAddr::new(setup.vip(), 80);
    let mut download = Download::start(setup.client(), vip).unwrap();

    tell_addresses(&setup, &[new.host.ipv4()], None);
    download.read(Download::LENGTH / 2).unwrap();
    for _ in 0..10 {
        assert_eq!(http_get(setup.client(), vip).unwrap().name, "pod-1");
    }
    // The client may take as long as it likes: the drain time-out does not apply here.
    download.finish().unwrap();
}
