// SPDX-License-Identifier: Apache-2.0
//! What every scenario starts from: a lab, two Nodes in a folder of manifests,
//! and the agent on the balancer. No assertions on behaviour here.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Host, Lab, Manifests, Server, wait_until};
use serde_json::Value;

use crate::plane::{Plane, Prepared};

/// From a written file to a served frontend; a busy machine needs more than
/// the few milliseconds of work.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// The nodes' names.
pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];

/// Field order is drop order: the agent ends before its lab goes.
pub(crate) struct Setup {
    pub(crate) agent: Agent,
    servers: Vec<Server>,
    pub(crate) manifests: Manifests,
    _prepared: Prepared,
    pub(crate) lab: Lab,
    plane: Plane,
    arguments: Vec<String>,
}

impl Setup {
    /// A lab with an agent that knows both Nodes and no Service.
    pub(crate) fn new(plane: Plane) -> Self {
        Self::with_arguments(plane, &[])
    }

    /// As [`Setup::new`], with more arguments for the agent.
    pub(crate) fn with_arguments(plane: Plane, more: &[&str]) -> Self {
        Self::with_preparation(plane, more, |_| ())
    }

    /// As [`Setup::new`], with `prepare` done before the agent starts.
    pub(crate) fn with_preparation(plane: Plane, more: &[&str], prepare: impl FnOnce(&Lab)) -> Self {
        let mut lab = Lab::new().unwrap();
        let prepared = plane.prepare(&mut lab);
        prepare(&lab);
        let manifests = Manifests::new(lab.balancer(), "manifests").unwrap();
        let nodes = NODES.map(|node| lab.host(node));
        manifests.write("nodes.yaml", &manifests::nodes(&nodes)).unwrap();
        let folder = manifests.path().to_str().unwrap();
        let mut arguments = vec!["--manifests".to_owned(), folder.to_owned()];
        arguments.extend(plane.arguments().iter().chain(more).map(|&argument| argument.to_owned()));
        // A scenario leaves nothing, unless what stays is its subject.
        if !arguments.iter().any(|argument| argument == "--at-stop") {
            arguments.extend(["--at-stop".to_owned(), "remove".to_owned()]);
        }
        let agent = start_agent(&lab, &arguments);
        Self { agent, servers: Vec::new(), manifests, _prepared: prepared, lab, plane, arguments }
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.client()
    }

    /// The first VIP, IPv4.
    pub(crate) fn vip(&self) -> IpAddr {
        self.lab.vip(0)
    }

    /// The first VIP, IPv6.
    pub(crate) fn vip_v6(&self) -> IpAddr {
        self.lab.vip_v6(0)
    }

    /// The next agent gets this value of a flag, instead of that of before.
    pub(crate) fn set_argument(&mut self, flag: &str, value: &str) {
        match self.arguments.iter().position(|argument| argument == flag) {
            Some(at) => value.clone_into(&mut self.arguments[at + 1]),
            None => self.arguments.extend([flag, value].map(str::to_owned)),
        }
    }

    /// Starts an agent with the same arguments, after the first one ended.
    pub(crate) fn restart_agent(&mut self) {
        self.agent = start_agent(&self.lab, &self.arguments);
    }

    /// As [`Setup::restart_agent`], without waiting for anything.
    pub(crate) fn spawn_agent(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.agent = Agent::spawn(self.lab.balancer(), &arguments).unwrap();
    }

    /// Starts a second agent with the same arguments, which takes over and is
    /// the agent from here on; the first one, which may still have connections.
    pub(crate) fn succeed_agent(&mut self) -> Agent {
        let pid = self.agent.process().pid();
        let old = self.succeed_agent_at_once();
        wait_until(LIMIT, &format!("the agent after {pid} to take over"), || {
            Ok((self.agent.listens()? && !old.listens()?).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\nthe agents' log:\n{}", self.agent.log()));
        old
    }

    /// As [`Setup::succeed_agent`], without waiting for anything.
    pub(crate) fn succeed_agent_at_once(&mut self) -> Agent {
        let new = self.spawn_agent_with(&[]);
        std::mem::replace(&mut self.agent, new)
    }

    /// Starts one more agent with the same arguments and more.
    pub(crate) fn spawn_agent_with(&self, more: &[&str]) -> Agent {
        let arguments: Vec<&str> =
            self.arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Agent::spawn(self.lab.balancer(), &arguments).unwrap()
    }

    /// Writes `<name>.yaml` with the Service.
    pub(crate) fn write_service(&self, name: &str, vips: &[IpAddr], ports: &[PortSpec<'_>]) {
        self.manifests.write(&format!("{name}.yaml"), &manifests::service(name, vips, ports)).unwrap();
    }

    /// As [`Setup::write_service`], then waits until all of it is served.
    pub(crate) fn serve(&self, name: &str, vips: &[IpAddr], ports: &[PortSpec<'_>]) {
        self.write_service(name, vips, ports);
        for &vip in vips {
            for port in ports {
                self.wait_serving(vip, port.port, port.protocol);
                self.assert_on_plane(vip, port.port, port.protocol);
            }
        }
    }

    /// The plane under test serves the frontend, not another one in its stead.
    fn assert_on_plane(&self, vip: IpAddr, port: u16, protocol: &str) {
        let frontend = frontend(vip, port, protocol);
        let state = self.agent.state().unwrap();
        let placement = &state["observed"]["frontends"][&frontend]["placement"];
        assert_eq!(placement["plane"], self.plane.name(protocol), "{frontend}: {placement}");
    }

    /// Waits until the frontend takes traffic and the VIP is on the link.
    pub(crate) fn wait_serving(&self, vip: IpAddr, port: u16, protocol: &str) {
        let frontend = frontend(vip, port, protocol);
        self.agent
            .wait_for_state(LIMIT, &format!("{frontend} to be served"), |state| {
                state["observed"]["frontends"][&frontend]["phase"] == "serving"
            })
            .unwrap();
        self.wait_address(vip, true);
    }

    /// Waits until the VIP is on the balancer's link, or is not.
    pub(crate) fn wait_address(&self, vip: IpAddr, present: bool) {
        let what = format!("{vip} to {} eth0", if present { "be on" } else { "leave" });
        wait_until(LIMIT, &what, || {
            let addresses = self.lab.balancer().addresses()?;
            let found = addresses.iter().any(|address| address.starts_with(&format!("{vip}/")));
            if found == present { Ok(Some(())) } else { anyhow::bail!("{addresses:?}") }
        })
        .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", self.agent.log()));
    }

    /// Waits until this plane takes the new connections of a frontend.
    pub(crate) fn wait_on_plane(&self, vip: IpAddr, port: u16, protocol: &str, plane: &str) {
        let frontend = frontend(vip, port, protocol);
        self.agent
            .wait_for_state(LIMIT, &format!("{frontend} to be on plane {plane}"), |state| {
                let status = &state["observed"]["frontends"][&frontend];
                status["placement"]["plane"] == plane && status["phase"] == "serving"
            })
            .unwrap();
    }

    /// Resident memory of the agent.
    pub(crate) fn resident_bytes(&mut self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.process().pid())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// HTTP servers with the nodes' names on `node_port`, both families.
    pub(crate) fn serve_http(&mut self, node_port: u16) {
        for node in NODES {
            let host = self.lab.host(node);
            self.servers.push(Server::http(host, host.at(node_port), node).unwrap());
            self.servers.push(Server::http(host, host.at_v6(node_port), node).unwrap());
        }
    }

    /// UDP servers with the nodes' names on `node_port`, both families.
    pub(crate) fn serve_udp(&mut self, node_port: u16) {
        for node in NODES {
            let host = self.lab.host(node);
            self.servers.push(Server::udp(host, host.at(node_port), node).unwrap());
            self.servers.push(Server::udp(host, host.at_v6(node_port), node).unwrap());
        }
    }

    /// TCP echo servers on `node_port`, both families.
    pub(crate) fn serve_echo(&mut self, node_port: u16) {
        for node in NODES {
            let host = self.lab.host(node);
            self.servers.push(Server::echo(host, host.at(node_port)).unwrap());
            self.servers.push(Server::echo(host, host.at_v6(node_port)).unwrap());
        }
    }

    /// Stops every server on this node.
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

/// The key of a frontend in `/state`.
pub(crate) fn frontend(vip: IpAddr, port: u16, protocol: &str) -> String {
    format!("{}/{protocol}", SocketAddr::new(vip, port))
}

/// Nothing is wrong with any object.
pub(crate) fn is_free_of_problems(state: &Value) -> bool {
    state["problems"].as_array().is_some_and(Vec::is_empty)
}

fn start_agent(lab: &Lab, arguments: &[String]) -> Agent {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Agent::start(lab.balancer(), &arguments).unwrap_or_else(|error| panic!("{error:#}"))
}
