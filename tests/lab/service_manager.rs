// SPDX-License-Identifier: Apache-2.0
//! What a service manager sees of the agent: readiness, the watchdog, and a supervisor whose end leaves the agent
//! serving. systemd itself is in the tests of the packages.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use llb_tests::client::http_get;
use llb_tests::manifests::PortSpec;
use llb_tests::{Agent, Host, Lab, Process, Wrk, wait_until};
use rustix::process::Signal;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

const WEB: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

/// The socket to which the agent sends its messages.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn listen(folder: &Path) -> Self {
        let path = folder.join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Self { socket, path }
    }

    /// Waits for a message with this line.
    fn wait_for(&self, line: &str) {
        let mut heard = Vec::new();
        wait_until(LIMIT, line, || {
            let mut message = [0; 4096];
            let length = self.socket.recv(&mut message)?;
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            let found = text.lines().any(|found| found.starts_with(line));
            heard.push(text);
            ensure!(found, "{heard:?}");
            Ok(Some(()))
        })
        .unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_late_link_is_waited_for_and_each_round_feeds_the_watchdog() {
    let lab = Lab::new().unwrap();
    let manager = Manager::listen(lab.directory());
    let folder = lab.directory().to_str().unwrap();
    let arguments = ["--userspace", "--manifests", folder, "--linkdevice", "late0"];
    let agent = Agent::spawn_with(lab.balancer(), &arguments, &[("NOTIFY_SOCKET", &manager.path)]).unwrap();
    manager.wait_for("STATUS=waiting for link late0");
    // Without a service manager the agent ends instead.
    wait_until(LIMIT, "the agent to wait on", || Ok(agent.log().contains("llb waits for it").then_some(())))
        .unwrap();
    let add = "link add late0 type veth peer name late1\nlink set late1 up\nlink set late0 up\n";
    lab.balancer().ip(add).unwrap();
    manager.wait_for("READY=1");
    for round in 0..2 {
        lab.balancer().ip(&format!("addr add 198.51.100.{}/24 dev late0\n", round + 1)).unwrap();
        manager.wait_for("WATCHDOG=1");
    }
}

fn supervise(setup: &Setup, name: &str) -> Process {
    let host = setup.lab.balancer();
    let mut command = host.command(llb_tests::agent::binary().unwrap());
    command
        .args(["supervise", "--linkdevice", Host::LINK, "--userspace", "--manifests"])
        .arg(setup.manifests.path())
        .arg("--state-dir")
        .arg(host.directory().join("balancer.state"))
        .arg("--bpf-dir")
        .arg(host.bpf_directory());
    host.spawn(command, name).unwrap()
}

fn wait_for_line(process: &Process, text: &str) {
    wait_until(LIMIT, text, || {
        let log = process.log();
        ensure!(log.contains(text), "{log}");
        Ok(Some(()))
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_end_of_a_supervisor_leaves_the_agent_to_the_next_one() {
    let mut setup = Setup::new(Plane::Userspace);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[WEB]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let load = Wrk::start(setup.client(), vip).unwrap();
    let mut first = supervise(&setup, "first");
    wait_for_line(&first, "took over");
    setup.agent.wait_exit().unwrap();
    // SIGHUP goes to the agent, and ends nobody.
    first.signal(Signal::HUP).unwrap();
    first.signal(Signal::TERM).unwrap();
    assert_eq!(first.wait_exit(LIMIT).unwrap().code(), Some(0), "{}", first.log());
    http_get(setup.client(), vip).unwrap();
    let mut second = supervise(&setup, "second");
    wait_for_line(&second, "took over");
    wait_for_line(&first, "ended");
    let outcome = load.stop().unwrap();
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {}", outcome.answered);
    // The watchdog of systemd: the agent ends too.
    second.signal(Signal::ABORT).unwrap();
    assert_eq!(second.wait_exit(LIMIT).unwrap().code(), Some(1), "{}", second.log());
    wait_until(LIMIT, "the agent to end", || Ok(http_get(setup.client(), vip).is_err().then_some(())))
        .unwrap();
}
