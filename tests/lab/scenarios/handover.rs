// SPDX-License-Identifier: Apache-2.0
//! A new agent takes over from the running one while clients continue.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use llb_tests::client::{Download, Load, http_get, udp_ask};
use llb_tests::manifests::PortSpec;
use llb_tests::{Agent, Process, Wrk, wait_until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, is_free_of_problems};

const RESTARTS: u32 = 3;
/// Requests that each agent answers, so that each restart happens under load.
const REQUESTS: u64 = 500;
const WEB: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };
const DNS: PortSpec<'static> = PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };

/// The longest pause before a kill: from before the new agent has read its flags to after it has taken over.
const LONGEST_START: Duration = Duration::from_millis(80);
const KILLS: u32 = 60;

/// Of a link's MTU, each with a hand-over.
const CHANGES: usize = 10;

pub(crate) fn three_restarts_lose_no_request_and_the_vip_stays(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve_udp(30053);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[WEB, DNS]);
    let watch = watch_addresses(&setup);
    let load = Wrk::start(setup.client(), SocketAddr::new(setup.vip(), 80)).unwrap();
    let load_v6 = Load::start(setup.client(), SocketAddr::new(setup.vip_v6(), 80));
    answer(&setup.agent);
    for _ in 0..RESTARTS {
        let mut old = setup.succeed_agent();
        let status = old.wait_exit().unwrap();
        assert_eq!(status.code(), Some(0), "{}", old.log());
        answer(&setup.agent);
        udp_ask(setup.client(), SocketAddr::new(setup.vip(), 53), "still there?").unwrap();
    }
    let outcome = load.stop().unwrap();
    println!("{outcome:?}");
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {}", outcome.answered);
    let tally = load_v6.stop().unwrap();
    assert_eq!(tally.failures, Vec::<String>::new(), "of {}", tally.total());

    // To prove that the watch works: it sees a VIP that does leave the link.
    assert_eq!(gone(&watch), Vec::<String>::new());
    setup.manifests.remove("web.yaml").unwrap();
    setup.wait_address(setup.vip(), false);
    wait_until(LIMIT, "the watch to see the end of the VIP", || {
        Ok(gone(&watch).iter().any(|line| line.contains(&vips[0].to_string())).then_some(()))
    })
    .unwrap();
}

pub(crate) fn a_download_goes_on_in_the_old_agent(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--after-handover", "wait"]);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[WEB]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let mut download = Download::start(setup.client(), vip).unwrap();
    let mut old = setup.succeed_agent();
    setup.agent.wait_for_state(LIMIT, "no problems", is_free_of_problems).unwrap();
    download.read(Download::LENGTH / 2).unwrap();
    http_get(setup.client(), vip).unwrap();
    download.finish().unwrap();
    // In a Pod, the end of the process would only lead to its next start.
    wait_until(LIMIT, "the old agent to be idle", || {
        Ok(old.log().contains("waiting for SIGTERM").then_some(()))
    })
    .unwrap();
    assert_eq!(old.process().exit_status().unwrap(), None);
    old.terminate().unwrap();
    assert_eq!(old.wait_exit().unwrap().code(), Some(0));
    setup.wait_address(setup.vip(), true);
    http_get(setup.client(), vip).unwrap();
}

pub(crate) fn the_old_agent_stays_in_charge_if_the_new_one_fails(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[WEB]);
    let load = Wrk::start(setup.client(), SocketAddr::new(setup.vip(), 80)).unwrap();
    answer(&setup.agent);
    // The new agent finds out only after the running one has handed over all its sockets.
    let taken = SocketAddr::from(([127, 0, 0, 1], 9661));
    let _in_use = setup.lab.balancer().run_inside(|| TcpListener::bind(taken)).unwrap().unwrap();
    let mut failing = setup.spawn_agent_with(&["--admin", "127.0.0.1:9661"]);
    assert_eq!(failing.wait_exit().unwrap().code(), Some(1), "{}", failing.log());
    assert!(failing.log().contains("cannot listen on --admin 127.0.0.1:9661"), "{}", failing.log());

    answer(&setup.agent);
    let outcome = load.stop().unwrap();
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {}", outcome.answered);
    let other = setup.lab.vip(1);
    setup.serve("other", &[other], &[WEB]);
    http_get(setup.client(), SocketAddr::new(other, 80)).unwrap();
}

pub(crate) fn sigterm_waits_for_a_new_agent_that_is_about_to_take_over(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--drain-timeout", "1h"]);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[WEB]);
    let vip = SocketAddr::new(setup.vip(), 80);
    // It cannot reach its API server, so it never gets a first snapshot.
    let kubeconfig = setup.lab.directory().join("kubeconfig");
    let content = "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}], \
                   clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}], \
                   contexts: [{name: c, context: {cluster: k, user: u}}]}";
    std::fs::write(&kubeconfig, content).unwrap();
    let arguments = [plane.arguments(), &["--kubeconfig", kubeconfig.to_str().unwrap()]].concat();
    let mut new = Agent::spawn(setup.lab.balancer(), &arguments).unwrap();
    wait_for_line(&setup, "a new agent has started; it takes over");

    setup.agent.terminate().unwrap();
    wait_for_line(&setup, "ending when it has taken over");
    http_get(setup.client(), vip).unwrap();
    assert_eq!(setup.agent.process().exit_status().unwrap(), None);
    // Without the new agent there is nothing left to wait for.
    new.process().kill9().unwrap();
    assert_eq!(setup.agent.wait_exit().unwrap().code(), Some(0), "{}", setup.agent.log());
    setup.wait_address(setup.vip(), false);
}

/// When the MTU changes, the running agent tries the hooks again: it has its new program ready when the new agent has looked
/// at the links and has not attached its own yet.
pub(crate) fn a_link_that_changes_during_a_handover_loses_nothing(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[WEB]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let mut download = Download::start(setup.client(), vip).unwrap();
    let load = Load::start(setup.client(), vip);
    for round in 0..CHANGES {
        let mtu = [1600, 1500][round % 2];
        setup.lab.balancer().ip(&format!("link set eth0 mtu {mtu}\n")).unwrap();
        let is_seen =
            format!("its packets are forwarded again\",\"link\":\"eth0\",\"ifindex\":2,\"mtu\":{mtu}");
        let count = |setup: &Setup| setup.agent.log().matches(&is_seen).count();
        wait_until(LIMIT, "the agent to see the MTU", || Ok((count(&setup) > round / 2).then_some(())))
            .unwrap();
        let mut old = setup.succeed_agent();
        assert_eq!(old.wait_exit().unwrap().code(), Some(0), "{}", old.log());
        download.read(Download::LENGTH / 100).unwrap();
    }
    let tally = load.stop().unwrap();
    assert_eq!(tally.failures, Vec::<String>::new(), "of {}", tally.total());
    download.finish().unwrap();
}

fn wait_for_line(setup: &Setup, text: &str) {
    wait_until(LIMIT, text, || Ok(setup.agent.log().contains(text).then_some(()))).unwrap();
}

pub(crate) fn either_agent_may_be_killed_at_any_moment_of_a_handover(plane: Plane) {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[WEB]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let watch = watch_addresses(&setup);
    let (mut kept, mut inherited) = (0, 0);
    for kill in 0..KILLS {
        let mut old = setup.succeed_agent_at_once();
        // A random moment, not a wait for a condition: the kill may come at any time.
        std::thread::park_timeout(LONGEST_START.mul_f64(random.random()));
        let is_done = old.process().exit_status().unwrap().is_some();
        if !is_done && random.random() {
            old.process().kill9().unwrap();
            inherited += 1;
        } else if !is_done {
            setup.agent.process().kill9().unwrap();
            // Either the new agent was killed too early to take over, or the old one ends.
            if old.process().wait_exit(Duration::from_secs(1)).is_ok() {
                setup.restart_agent();
            } else {
                setup.agent = old;
                kept += 1;
            }
        }
        wait_until(LIMIT, "an answer", || http_get(setup.client(), vip).map(Some))
            .unwrap_or_else(|error| panic!("seed {seed}, kill {kill}: {error:#}\n{}", setup.agent.log()));
        wait_until(LIMIT, "an agent", || setup.agent.state().map(Some)).unwrap();
    }
    println!(
        "of {KILLS} handovers: the old agent killed in {inherited}, the new one before it took over in {kept}"
    );
    assert_eq!(gone(&watch), Vec::<String>::new());
    // Whichever agent is left is in charge.
    setup.manifests.remove("web.yaml").unwrap();
    setup.wait_address(setup.vip(), false);
}

/// Records from now on what the kernel reports about addresses.
fn watch_addresses(setup: &Setup) -> Process {
    let balancer = setup.lab.balancer();
    let mut command = balancer.command("ip");
    command.args(["-oneline", "monitor", "address"]);
    let watch = balancer.spawn(command, "addresses").unwrap();
    // Wait until it reports a foreign address, which shows that it listens.
    wait_until(LIMIT, "the watch to listen", || {
        balancer.ip("addr add 198.51.100.99/32 dev lo\naddr del 198.51.100.99/32 dev lo\n")?;
        Ok(watch.log().contains("198.51.100.99").then_some(()))
    })
    .unwrap();
    watch
}

/// The addresses that have left the link.
fn gone(watch: &Process) -> Vec<String> {
    let log = watch.log();
    let lines = log.lines().filter(|line| line.starts_with("Deleted") && line.contains("eth0"));
    lines.map(str::to_owned).collect()
}

/// Waits until this agent has served some more requests.
fn answer(agent: &Agent) {
    let mut goal = None;
    wait_until(LIMIT, &format!("{REQUESTS} more connections"), || {
        let now = agent.connections()?;
        Ok((now >= *goal.get_or_insert(now + REQUESTS)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
}
