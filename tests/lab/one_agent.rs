// SPDX-License-Identifier: Apache-2.0
//! Two agents on one link, with all combinations of folders and planes: one of
//! them serves, and the other one says why it does not. `detach` beside a
//! running agent, and a program that removes a VIP again and again.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use llb_tests::client::http_get;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Host, Lab, Manifests, Process, Server, agent, wait_until};
use rustix::process::Signal;

use crate::plane::Plane;
use crate::setup::{LIMIT, NODES};

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

/// Lines that one agent may log in one of these tests: its start takes about 15.
const MOST_LINES: usize = 50;

/// A lab with a Service, whose nodes answer.
struct Stage {
    /// Ends before its lab.
    _servers: Vec<Server>,
    manifests: Manifests,
    no_manifests: Manifests,
    lab: Lab,
}

/// The flags of one agent.
#[derive(Clone, Copy, Debug)]
struct Flags {
    link: &'static str,
    plane: Plane,
    state_dir: &'static str,
    bpf_dir: &'static str,
    has_manifests: bool,
}

const FIRST: Flags =
    Flags { link: Host::LINK, plane: Plane::Userspace, state_dir: "1", bpf_dir: "1", has_manifests: true };

impl Stage {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let manifests = Manifests::new(lab.balancer(), "manifests").unwrap();
        let no_manifests = Manifests::new(lab.balancer(), "empty").unwrap();
        let nodes = NODES.map(|node| lab.host(node));
        manifests.write("nodes.yaml", &manifests::nodes(&nodes)).unwrap();
        manifests.write("web.yaml", &manifests::service("web", &[lab.vip(0)], &[HTTP])).unwrap();
        let servers = nodes.map(|node| Server::http(node, node.at(HTTP.node_port), node.name()).unwrap());
        Self { _servers: servers.into(), manifests, no_manifests, lab }
    }

    fn state_dir(&self, flags: Flags) -> PathBuf {
        self.lab.directory().join(format!("state-{}", flags.state_dir))
    }

    fn bpf_dir(&self, flags: Flags) -> PathBuf {
        self.lab.balancer().bpf_directory().join(flags.bpf_dir)
    }

    /// Starts an agent, with a log of its own.
    fn start(&self, name: &str, flags: Flags) -> Process {
        let host = self.lab.balancer();
        let manifests = if flags.has_manifests { &self.manifests } else { &self.no_manifests };
        let mut command = host.command(agent::binary().unwrap());
        command.args(["--linkdevice", flags.link, "--at-stop", "remove"]).args(flags.plane.arguments());
        command.arg("--manifests").arg(manifests.path());
        command.arg("--state-dir").arg(self.state_dir(flags)).arg("--bpf-dir").arg(self.bpf_dir(flags));
        host.spawn(command, name).unwrap()
    }

    /// Starts an agent and waits until it serves.
    fn serve(&self, name: &str, flags: Flags) -> Process {
        let process = self.start(name, flags);
        self.wait_until_served(&process);
        process
    }

    fn wait_until_served(&self, by: &Process) {
        let is_ready = || self.lab.balancer().output(&["curl", "-sf", "http://127.0.0.1:9660/readyz"]);
        wait_until(LIMIT, "the agent to be ready", || is_ready().map(Some))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", by.log()));
        let vip = std::net::SocketAddr::new(self.lab.vip(0), HTTP.port);
        wait_until(LIMIT, "an answer", || http_get(self.lab.client(), vip).map(Some))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", by.log()));
    }

    fn is_vip_there(&self) -> bool {
        self.lab.balancer().has_address(self.lab.vip(0)).unwrap()
    }

    /// The second agent ends with an error, and the first one has not noticed it.
    fn assert_refused(&self, first: &mut Process, second: &mut Process, expected: &[&str]) {
        let status = second.wait_exit(LIMIT).unwrap();
        assert_eq!(status.code(), Some(1), "{}", second.log());
        let log = second.log();
        for text in expected {
            assert!(log.contains(text), "{text}: {log}");
        }
        assert_eq!(first.exit_status().unwrap(), None, "{}", first.log());
        assert!(self.is_vip_there());
        self.wait_until_served(first);
        assert!(!first.log().contains("but not by llb"), "{}", first.log());
        assert_short(first);
        assert_short(second);
    }

    /// Runs `llb-agent detach` with the folders of `flags`.
    fn detach(&self, flags: Flags) -> Result<String, String> {
        let mut command = self.lab.balancer().command(agent::binary().unwrap());
        command.arg("detach").arg("--state-dir").arg(self.state_dir(flags));
        let output = command.arg("--bpf-dir").arg(self.bpf_dir(flags)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }
}

fn assert_short(agent: &Process) {
    let log = agent.log();
    assert!(log.lines().count() <= MOST_LINES, "{log}");
}

/// Every combination of folders and of the second agent's plane beside a first
/// agent with plane `first`.
fn every_second_agent(first: Plane) {
    let first = Flags { plane: first, ..FIRST };
    for plane in [Plane::Userspace, Plane::Tc] {
        for state_dir in ["1", "2"] {
            for bpf_dir in ["1", "2"] {
                // With the same state folder it is a successor, so it serves the same Services.
                let has_manifests = state_dir == first.state_dir;
                second_agent(first, Flags { plane, state_dir, bpf_dir, has_manifests, ..first });
            }
        }
    }
}

fn second_agent(first: Flags, second: Flags) {
    println!("{first:?} beside {second:?}");
    let stage = Stage::new();
    let mut running = stage.serve("first", first);
    let mut new = stage.start("second", second);
    let is_packets = |flags: Flags| matches!(flags.plane, Plane::Tc);
    if first.state_dir != second.state_dir {
        let holder = format!("another llb-agent (pid {}, --state-dir", running.pid());
        stage.assert_refused(
            &mut running,
            &mut new,
            &[&holder, "has link eth0", "stop it, or start this one"],
        );
    } else if is_packets(first) && !is_packets(second) {
        stage.assert_refused(&mut running, &mut new, &["refuses to hand over", "no packet plane"]);
    } else if is_packets(first) && first.bpf_dir != second.bpf_dir {
        stage.assert_refused(&mut running, &mut new, &["refuses to hand over", "give both the same"]);
    } else {
        let status = running.wait_exit(LIMIT).unwrap();
        assert!(status.success(), "{}", running.log());
        stage.wait_until_served(&new);
        assert!(stage.is_vip_there());
        assert_short(&running);
        assert_short(&new);
        running = new;
    }
    running.signal(Signal::TERM).unwrap();
    assert!(running.wait_exit(LIMIT).unwrap().success(), "{}", running.log());
    assert!(!stage.is_vip_there());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn beside_an_agent_that_relays_a_second_one_takes_over_or_ends() {
    every_second_agent(Plane::Userspace);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn beside_an_agent_that_forwards_packets_a_second_one_takes_over_or_ends() {
    every_second_agent(Plane::Tc);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_lock_of_a_link_holds_under_all_names_and_passes_to_the_successor() {
    let stage = Stage::new();
    stage.lab.balancer().ip("link property add dev eth0 altname wan0\n").unwrap();
    let mut first = stage.serve("first", FIRST);
    let other = Flags { state_dir: "2", bpf_dir: "2", has_manifests: false, ..FIRST };
    let mut second = stage.start("by-alternative-name", Flags { link: "wan0", ..other });
    let holder = format!("(pid {},", first.pid());
    stage.assert_refused(&mut first, &mut second, &[&holder, "has link wan0"]);

    let mut successor = stage.start("successor", FIRST);
    assert!(first.wait_exit(LIMIT).unwrap().success(), "{}", first.log());
    stage.wait_until_served(&successor);
    let holder = format!("(pid {},", successor.pid());
    let mut third = stage.start("third", other);
    stage.assert_refused(&mut successor, &mut third, &[&holder, "has link eth0"]);

    // The lock ends with its process, whatever ends that.
    successor.kill9().unwrap();
    stage.serve("heir", Flags { state_dir: "2", bpf_dir: "2", ..FIRST });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_that_is_made_again_gets_nothing_before_its_lock_is_free() {
    let stage = Stage::new();
    let agent = stage.serve("agent", Flags { plane: Plane::Tc, ..FIRST });
    let host = stage.lab.balancer();
    // Every number that the new link can have.
    let take = |index: u32| {
        let name = SocketAddr::from_abstract_name(format!("llb-agent/{index}"));
        name.and_then(|name| UnixListener::bind_addr(&name)).ok()
    };
    let others: Vec<UnixListener> = host.run_inside(|| (1..300).filter_map(take).collect()).unwrap();
    host.replace_link().unwrap();
    wait_until(LIMIT, "the problem", || {
        let state = host.output(&["curl", "-sf", "http://127.0.0.1:9660/state"])?;
        let problem = "a process that does not answer (pid";
        Ok((state.contains("LinkBusy") && state.contains(problem)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    assert!(!stage.is_vip_there());
    drop(others);
    let is_served = || Ok(agent.log().contains("its packets are forwarded again").then_some(()));
    wait_until(LIMIT, "packets to be forwarded", is_served).unwrap();
    stage.wait_until_served(&agent);
    assert!(stage.is_vip_there());
    let log = agent.log();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text}: {log}"));
    let free = place("no other agent has the link any more");
    assert!(place("nothing is changed on the link") < free, "{log}");
    assert!(free < place("its packets are forwarded again"), "{log}");
    assert_short(&agent);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn detach_leaves_a_running_agent_alone() {
    let stage = Stage::new();
    let forwarding = Flags { plane: Plane::Tc, ..FIRST };
    let mut first = stage.serve("first", forwarding);
    for (flags, expected) in [
        (Flags { state_dir: "2", ..forwarding }, "has link eth0; stop it first. Nothing was changed"),
        (Flags { bpf_dir: "2", ..forwarding }, "runs with --state-dir"),
        (forwarding, "runs with --state-dir"),
    ] {
        let said = stage.detach(flags).unwrap_err();
        assert!(said.contains(expected), "{flags:?}: {said}");
        assert!(stage.is_vip_there());
        stage.wait_until_served(&first);
    }
    // Nothing there is its own.
    stage.detach(Flags { state_dir: "2", bpf_dir: "2", ..FIRST }).unwrap();
    assert!(stage.is_vip_there());

    // The programs of a killed agent, beside another agent that serves now.
    first.kill9().unwrap();
    let relaying = Flags { state_dir: "2", bpf_dir: "2", ..FIRST };
    let mut second = stage.serve("second", relaying);
    let said = stage.detach(forwarding).unwrap_err();
    assert!(said.contains(&format!("another llb-agent (pid {},", second.pid())), "{said}");
    assert!(stage.is_vip_there());
    stage.wait_until_served(&second);

    // The programs of two killed agents: each folder has its own, and both need the VIP.
    second.kill9().unwrap();
    let forwarding_too = Flags { plane: Plane::Tc, ..relaying };
    stage.serve("third", forwarding_too).kill9().unwrap();
    let said = stage.detach(forwarding_too).unwrap();
    assert!(said.contains("another --bpf-dir keeps"), "{said}");
    assert!(stage.is_vip_there());
    assert!(!stage.bpf_dir(forwarding_too).exists() && stage.bpf_dir(forwarding).exists());
    stage.detach(forwarding).unwrap();
    assert!(!stage.is_vip_there());
    assert!(!stage.bpf_dir(forwarding).exists());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_vip_that_is_removed_again_and_again_is_said_once_and_comes_back() {
    let stage = Stage::new();
    let mut agent = stage.serve("agent", FIRST);
    let host = stage.lab.balancer();
    let removals = format!("while sleep 0.02; do ip addr del {}/24 dev eth0 2>&-; done", stage.lab.vip(0));
    let mut command = host.command("sh");
    command.args(["-c", &removals]);
    let mut remover = host.spawn(command, "remover").unwrap();
    wait_until(LIMIT, "the problem", || {
        let state = host.output(&["curl", "-sf", "http://127.0.0.1:9660/state"])?;
        let problem = "something removes 192.0.2.100 on eth0 again and again";
        Ok((state.contains("ChangeUndone") && state.contains(problem)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    // By now it waits for seconds.
    wait_until(LIMIT, "the first pauses to pass", || {
        Ok((agent.log().matches("but not by llb").count() >= 7).then_some(()))
    })
    .unwrap();
    remover.kill9().unwrap();
    wait_until(LIMIT, "the VIP to be back", || Ok(stage.is_vip_there().then_some(()))).unwrap();
    stage.wait_until_served(&agent);
    assert_eq!(agent.log().matches("something undoes this again and again").count(), 1, "{}", agent.log());
    assert_short(&agent);
    assert_eq!(agent.exit_status().unwrap(), None);
}
