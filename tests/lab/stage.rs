// SPDX-License-Identifier: Apache-2.0
//! A lab with a Service, in which several agents can be started with flags of their own. It contains no tests.

use std::path::PathBuf;

use llb_tests::client::http_get;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Host, Lab, Manifests, Process, Server, agent, wait_until};

use crate::plane::{Plane, Prepared};
use crate::setup::{LIMIT, NODES};

pub(crate) const HTTP: PortSpec<'static> =
    PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

/// Lines that one agent may log in one of these tests: its start takes about 15.
const MOST_LINES: usize = 50;

/// A lab with a Service, whose nodes answer.
pub(crate) struct Stage {
    /// Ends before its lab.
    _servers: Vec<Server>,
    manifests: Manifests,
    no_manifests: Manifests,
    _prepared: Vec<Prepared>,
    pub(crate) lab: Lab,
}

/// The flags of one agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flags {
    pub(crate) link: &'static str,
    pub(crate) plane: Plane,
    pub(crate) state_dir: &'static str,
    pub(crate) bpf_dir: &'static str,
    pub(crate) address_tag: &'static str,
    pub(crate) has_manifests: bool,
}

pub(crate) const FIRST: Flags = Flags {
    link: Host::LINK,
    plane: Plane::Userspace,
    state_dir: "1",
    bpf_dir: "1",
    address_tag: "auto",
    has_manifests: true,
};

impl Stage {
    pub(crate) fn new() -> Self {
        Self::for_planes(&[])
    }

    /// As [`Stage::new`], in a lab in which these planes work.
    pub(crate) fn for_planes(planes: &[Plane]) -> Self {
        let mut lab = Lab::new().unwrap();
        let prepared = planes.iter().map(|plane| plane.prepare(&mut lab).unwrap()).collect();
        let manifests = Manifests::new(lab.balancer(), "manifests").unwrap();
        let no_manifests = Manifests::new(lab.balancer(), "empty").unwrap();
        let nodes = NODES.map(|node| lab.host(node));
        manifests.write("nodes.yaml", &manifests::nodes(&nodes)).unwrap();
        manifests.write("web.yaml", &manifests::service("web", &[lab.vip(0)], &[HTTP])).unwrap();
        let servers = nodes.map(|node| Server::http(node, node.at(HTTP.node_port), node.name()).unwrap());
        Self { _servers: servers.into(), manifests, no_manifests, _prepared: prepared, lab }
    }

    pub(crate) fn state_dir(&self, flags: Flags) -> PathBuf {
        self.lab.directory().join(format!("state-{}", flags.state_dir))
    }

    pub(crate) fn bpf_dir(&self, flags: Flags) -> PathBuf {
        self.lab.balancer().bpf_directory().join(flags.bpf_dir)
    }

    /// Starts an agent, with a log of its own.
    pub(crate) fn start(&self, name: &str, flags: Flags) -> Process {
        let host = self.lab.balancer();
        let manifests = if flags.has_manifests { &self.manifests } else { &self.no_manifests };
        let mut command = host.command(agent::binary().unwrap());
        command.args(["--linkdevice", flags.link, "--at-stop", "remove"]).args(flags.plane.arguments());
        command.arg("--address-tag").arg(flags.address_tag).arg("--manifests").arg(manifests.path());
        command.arg("--state-dir").arg(self.state_dir(flags)).arg("--bpf-dir").arg(self.bpf_dir(flags));
        host.spawn(command, name).unwrap()
    }

    /// Starts an agent and waits until it serves.
    pub(crate) fn serve(&self, name: &str, flags: Flags) -> Process {
        let process = self.start(name, flags);
        self.wait_until_served(&process);
        process
    }

    pub(crate) fn wait_until_served(&self, by: &Process) {
        let is_ready = || self.lab.balancer().output(&["curl", "-sf", "http://127.0.0.1:9660/readyz"]);
        wait_until(LIMIT, "the agent to be ready", || is_ready().map(Some))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", by.log()));
        let vip = std::net::SocketAddr::new(self.lab.vip(0), HTTP.port);
        wait_until(LIMIT, "an answer", || http_get(self.lab.client(), vip).map(Some))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", by.log()));
    }

    pub(crate) fn is_vip_there(&self) -> bool {
        self.lab.balancer().has_address(self.lab.vip(0)).unwrap()
    }

    /// The second agent ends with an error, and the first one has not noticed it.
    pub(crate) fn assert_refused(&self, first: &mut Process, second: &mut Process, expected: &[&str]) {
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
    pub(crate) fn detach(&self, flags: Flags) -> Result<String, String> {
        let mut command = self.lab.balancer().command(agent::binary().unwrap());
        command.arg("detach").arg("--state-dir").arg(self.state_dir(flags));
        let output = command.arg("--bpf-dir").arg(self.bpf_dir(flags)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }
}

pub(crate) fn assert_short(agent: &Process) {
    let log = agent.log();
    assert!(log.lines().count() <= MOST_LINES, "{log}");
}
