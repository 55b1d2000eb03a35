// SPDX-License-Identifier: Apache-2.0
//! What every scenario starts with: a lab, a folder of manifests with two Nodes, and the agent on the balancer.
//! It asserts nothing about behaviour, except that the plane under test serves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Host, Lab, Manifests, Server, wait_until};
use serde_json::Value;

use crate::plane::{Plane, Prepared};

/// From a written file to a served frontend. This takes milliseconds; a busy machine, on which other tests run and
/// compilers too, may need more.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Names of the nodes.
pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];

/// Fields are dropped in this order: the agent ends before its lab is removed.
pub(crate) struct Setup {
    pub(crate) agent: Agent,
    servers: Vec<Server>,
    pub(crate) manifests: Manifests,
    prepared: Prepared,
    pub(crate) lab: Lab,
    plane: Plane,
    arguments: Vec<String>,
}

impl Setup {
    /// A lab whose agent knows both Nodes and no Service.
    pub(crate) fn new(plane: Plane) -> Self {
        Self::with_arguments(plane, &[])
    }

    /// As [`Setup::new`], with more flags for the agent.
    pub(crate) fn with_arguments(plane: Plane, more: &[&str]) -> Self {
        Self::with_preparation(plane, more, |_| ())
    }

    /// As [`Setup::new`], but calls `prepare` before it starts the agent.
    pub(crate) fn with_preparation(plane: Plane, more: &[&str], prepare: impl FnOnce(&Lab)) -> Self {
        let mut lab = Lab::new().unwrap();
        let prepared = plane.prepare(&mut lab).unwrap();
        prepare(&lab);
        let manifests = Manifests::new(lab.balancer(), "manifests").unwrap();
        let nodes = NODES.map(|node| lab.host(node));
        manifests.write("nodes.yaml", &manifests::nodes(&nodes)).unwrap();
        let folder = manifests.path().to_str().unwrap();
        let mut arguments = vec!["--manifests".to_owned(), folder.to_owned()];
        arguments.extend(plane.arguments().iter().chain(more).map(|&argument| argument.to_owned()));
        // The agent removes everything when it stops, unless the scenario is about what stays.
        if !arguments.iter().any(|argument| argument == "--at-stop") {
            arguments.extend(["--at-stop".to_owned(), "remove".to_owned()]);
        }
        let agent = start_agent(&lab, &arguments);
        Self { agent, servers: Vec::new(), manifests, prepared, lab, plane, arguments }
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.client()
    }

    /// The first VIP of the lab, IPv4.
    pub(crate) fn vip(&self) -> IpAddr {
        self.lab.vip(0)
    }

    /// The first VIP of the lab, IPv6.
    pub(crate) fn vip_v6(&self) -> IpAddr {
        self.lab.vip_v6(0)
    }

    /// Takes from the lab what [`Plane::prepare`] attached, without which XDP in the driver loses packets.
    pub(crate) fn undo_preparation(&mut self) {
        drop(std::mem::take(&mut self.prepared));
    }

    /// Sets a flag for the agents that are started from now on.
    pub(crate) fn set_argument(&mut self, flag: &str, value: &str) {
        match self.arguments.iter().position(|argument| argument == flag) {
            Some(at) => value.clone_into(&mut self.arguments[at + 1]),
            None => self.arguments.extend([flag, value].map(str::to_owned)),
        }
    }

    /// Starts an agent with the same flags after the last one has ended, and waits until it is ready.
    pub(crate) fn restart_agent(&mut self) {
        self.agent = start_agent(&self.lab, &self.arguments);
    }

    /// As [`Setup::restart_agent`], but does not wait.
    pub(crate) fn spawn_agent(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.agent = Agent::spawn(self.lab.balancer(), &arguments).unwrap();
    }

    /// Starts a second agent with the same flags and waits until it has taken over. Returns the first one,
    /// which may still have connections; the second one is [`Setup::agent`] from here on.
    pub(crate) fn succeed_agent(&mut self) -> Agent {
        let pid = self.agent.process().pid();
        let old = self.succeed_agent_at_once();
        wait_until(LIMIT, &format!("the agent after {pid} to take over"), || {
            Ok((self.agent.listens()? && !old.listens()?).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\nthe agents' log:\n{}", self.agent.log()));
        old
    }

    /// As [`Setup::succeed_agent`], but does not wait.
    pub(crate) fn succeed_agent_at_once(&mut self) -> Agent {
        let new = self.spawn_agent_with(&[]);
        std::mem::replace(&mut self.agent, new)
    }

    /// Starts another agent with the same flags and `more`.
    pub(crate) fn spawn_agent_with(&self, more: &[&str]) -> Agent {
        let arguments: Vec<&str> =
            self.arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Agent::spawn(self.lab.balancer(), &arguments).unwrap()
    }

    /// Writes the Service to `<name>.yaml`.
    pub(crate) fn write_service(&self, name: &str, vips: &[IpAddr], ports: &[PortSpec<'_>]) {
        self.manifests.write(&format!("{name}.yaml"), &manifests::service(name, vips, ports)).unwrap();
    }

    /// As [`Setup::write_service`], then waits until all its frontends are served.
    pub(crate) fn serve(&self, name: &str, vips: &[IpAddr], ports: &[PortSpec<'_>]) {
        self.write_service(name, vips, ports);
        for &vip in vips {
            for port in ports {
                self.wait_serving(vip, port.port, port.protocol);
                self.assert_on_plane(vip, port.port, port.protocol);
            }
        }
    }

    /// Checks that the plane under test serves the frontend, not another one.
    fn assert_on_plane(&self, vip: IpAddr, port: u16, protocol: &str) {
        let frontend = frontend(vip, port, protocol);
        let state = self.agent.state().unwrap();
        let placement = &state["observed"]["frontends"][&frontend]["placement"];
        assert_eq!(placement["plane"], self.plane.name(protocol), "{frontend}: {placement}");
    }

    /// Waits until the frontend accepts traffic and its VIP is on the link.
    pub(crate) fn wait_serving(&self, vip: IpAddr, port: u16, protocol: &str) {
        let frontend = frontend(vip, port, protocol);
        self.agent
            .wait_for_state(LIMIT, &format!("{frontend} to be served"), |state| {
                state["observed"]["frontends"][&frontend]["phase"] == "serving"
            })
            .unwrap();
        self.wait_address(vip, true);
    }

    /// Waits until the VIP is on the balancer's link, or has left it.
    pub(crate) fn wait_address(&self, vip: IpAddr, present: bool) {
        let what = format!("{vip} to {} eth0", if present { "be on" } else { "leave" });
        wait_until(LIMIT, &what, || {
            let addresses = self.lab.balancer().addresses()?;
            let found = addresses.iter().any(|address| address.starts_with(&format!("{vip}/")));
            if found == present { Ok(Some(())) } else { anyhow::bail!("{addresses:?}") }
        })
        .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", self.agent.log()));
    }

    /// Waits until `plane` takes the new connections of a frontend.
    pub(crate) fn wait_on_plane(&self, vip: IpAddr, port: u16, protocol: &str, plane: &str) {
        let frontend = frontend(vip, port, protocol);
        self.agent
            .wait_for_state(LIMIT, &format!("{frontend} to be on plane {plane}"), |state| {
                let status = &state["observed"]["frontends"][&frontend];
                status["placement"]["plane"] == plane && status["phase"] == "serving"
            })
            .unwrap();
    }

    /// Resident memory of the agent in bytes.
    pub(crate) fn resident_bytes(&mut self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident memory that the agent has had so far, in bytes.
    pub(crate) fn largest_resident_bytes(&mut self) -> u64 {
        self.memory("VmHWM:")
    }

    /// A line of proc_pid_status(5).
    fn memory(&mut self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.process().pid())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Starts an HTTP server on `node_port` of each node, for both families; its name is the node's.
    pub(crate) fn serve_http(&mut self, node_port: u16) {
        for node in NODES {
            let host = self.lab.host(node);
            self.servers.push(Server::http(host, host.at(node_port), node).unwrap());
            self.servers.push(Server::http(host, host.at_v6(node_port), node).unwrap());
        }
    }

    /// Starts a UDP server on `node_port` of each node, for both families; its name is the node's.
    pub(crate) fn serve_udp(&mut self, node_port: u16) {
        for node in NODES {
            let host = self.lab.host(node);
            self.servers.push(Server::udp(host, host.at(node_port), node).unwrap());
            self.servers.push(Server::udp(host, host.at_v6(node_port), node).unwrap());
        }
    }

    /// Starts a TCP echo server on `node_port` of each node, for both families.
    pub(crate) fn serve_echo(&mut self, node_port: u16) {
        for node in NODES {
            let host = self.lab.host(node);
            self.servers.push(Server::echo(host, host.at(node_port)).unwrap());
            self.servers.push(Server::echo(host, host.at_v6(node_port)).unwrap());
        }
    }

    /// Stops all servers on this node.
    pub(crate) fn stop_servers_on(&mut self, node: &str) {
        let host = self.lab.host(node);
        let own = [host.at(0).ip(), host.at_v6(0).ip()];
        let (gone, stay) =
            self.servers.drain(..).partition(|server: &Server| own.contains(&server.address().ip()));
        self.servers = stay;
        let gone: Vec<Server> = gone;
        gone.into_iter().for_each(Server::stop);
    }
}

/// The name of a frontend in `/state`.
pub(crate) fn frontend(vip: IpAddr, port: u16, protocol: &str) -> String {
    format!("{}/{protocol}", SocketAddr::new(vip, port))
}

/// Whether `/state` has no problems.
pub(crate) fn is_free_of_problems(state: &Value) -> bool {
    state["problems"].as_array().is_some_and(Vec::is_empty)
}

fn start_agent(lab: &Lab, arguments: &[String]) -> Agent {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Agent::start(lab.balancer(), &arguments).unwrap_or_else(|error| panic!("{error:#}"))
}
