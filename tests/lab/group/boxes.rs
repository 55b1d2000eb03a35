// SPDX-License-Identifier: Apache-2.0
//! A lab with two or three boxes of a group: real agents and real keepalived processes. A client is behind a router, and two
//! nodes answer. It contains no tests.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use llb_agent::model::SHARES;
use llb_agent::ownership::Ranks;
use llb_tests::client::http_get;
use llb_tests::environment::failovers;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Host, Lab, Manifests, Process, Server, wait_until};
use rustix::process::Signal;

use crate::plane::{Plane, Prepared};
use crate::setup::{LIMIT, NODES};

pub(crate) const BOXES: [&str; 3] = ["box-a", "box-b", "box-c"];
pub(crate) const HTTP: PortSpec<'static> =
    PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };
pub(crate) const ECHO: PortSpec<'static> =
    PortSpec { name: "echo", port: 7, protocol: "TCP", node_port: 30007 };
pub(crate) const UDP: PortSpec<'static> =
    PortSpec { name: "udp", port: 53, protocol: "UDP", node_port: 30053 };

/// Longer than by default: the tests share their processors, and must not see boxes die that are only slow.
const ADVERT: &str = "200ms";
/// That of users, for a run that measures.
const DEFAULT_ADVERT: &str = "50ms";

/// VIPs of one Service, in both families. Their shares differ.
pub(crate) const VIPS: u8 = 4;

/// A box of the group.
pub(crate) struct Member {
    pub(crate) host: Host,
    pub(crate) agent: Option<Agent>,
    keepalived: Option<Process>,
    arguments: Vec<String>,
}

/// The lab.
pub(crate) struct Group {
    /// They end before the lab.
    pub(crate) members: Vec<Member>,
    _servers: Vec<Server>,
    pub(crate) manifests: Manifests,
    _prepared: Prepared,
    pub(crate) client: Host,
    pub(crate) lab: Lab,
}

impl Group {
    /// Two boxes that serve [`VIPS`] VIPs of each family, and the client.
    pub(crate) fn new(plane: Plane, more: &[&str]) -> Self {
        Self::of(2, plane, more)
    }

    /// As [`Group::new`], with so many boxes.
    pub(crate) fn of(count: usize, plane: Plane, more: &[&str]) -> Self {
        let mut lab = Lab::empty().unwrap();
        let names = &BOXES[..count];
        let hosts: Vec<Host> = names.iter().map(|name| lab.add_host(name).unwrap()).collect();
        let nodes: Vec<Host> = NODES.iter().map(|name| lab.add_host(name).unwrap()).collect();
        let prepared = plane.prepare_for(&mut lab, names).unwrap();
        let client = add_client(&mut lab, [&hosts[..], &nodes[..]].concat());
        let manifests = Manifests::new(&hosts[0], "manifests").unwrap();
        manifests.write("nodes.yaml", &manifests::nodes(&nodes.iter().collect::<Vec<_>>())).unwrap();
        let folder = manifests.path().to_str().unwrap().to_owned();
        let member = |host: Host| {
            let peers = names.iter().filter(|name| **name != host.name()).flat_map(|name| ["--peer", name]);
            let flags =
                ["--manifests", &folder, "--pool", "192.0.2.96-192.0.2.159,2001:db8::100-2001:db8::19f"];
            let advert = if failovers().is_some() { DEFAULT_ADVERT } else { ADVERT };
            let group = ["--group", "edge", "--member", host.name(), "--vrrp-advert", advert];
            let arguments = flags.into_iter().chain(group).chain(peers);
            let arguments = arguments.chain(plane.arguments().iter().copied()).chain(more.iter().copied());
            let arguments = arguments.map(str::to_owned).collect();
            Member { host, agent: None, keepalived: None, arguments }
        };
        let members = hosts.into_iter().map(member).collect();
        let servers = nodes.iter().flat_map(servers_on).collect();
        Self { members, _servers: servers, manifests, _prepared: prepared, client, lab }
    }

    /// All VIPs of [`Group::serve`].
    pub(crate) fn vips(&self) -> Vec<IpAddr> {
        (0..VIPS).flat_map(|number| [self.lab.vip(number), self.lab.vip_v6(number)]).collect()
    }

    /// Writes the Service, starts everything, and waits until each VIP is at one box and answers.
    pub(crate) fn serve(&mut self, ports: &[PortSpec<'_>], annotation: &str) {
        let yaml = manifests::annotated_service("web", &self.vips(), ports, annotation);
        self.manifests.write("web.yaml", &yaml).unwrap();
        self.members.iter_mut().for_each(Member::start_agent);
        self.members.iter_mut().for_each(Member::start_keepalived);
        // Boxes that start get their shares one after the other.
        let names = self.members.iter().map(|member| member.host.name().to_owned()).collect();
        let ranks = Ranks::new("edge", &names);
        wait_until(LIMIT, "each share to be at the first box in line", || {
            let is_due = |member: &Member, share| ranks.rank(member.host.name(), share) == Some(0);
            let has_due = |member: &Member| {
                let shares = member.shares();
                (0..SHARES).all(|share| shares.contains(&share) == is_due(member, share))
            };
            Ok(self.members.iter().all(has_due).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
        self.wait_until_each_vip_is_at_one_box();
    }

    pub(crate) fn wait_until_each_vip_is_at_one_box(&self) {
        wait_until(LIMIT, "each VIP to be at one box", || {
            let owners: Vec<usize> = self.vips().into_iter().map(|vip| self.owners(vip).len()).collect();
            if owners.iter().all(|count| *count == 1) { Ok(Some(())) } else { anyhow::bail!("{owners:?}") }
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    /// The boxes that have the VIP on their link.
    pub(crate) fn owners(&self, vip: IpAddr) -> Vec<&Member> {
        self.members.iter().filter(|member| member.has(vip)).collect()
    }

    /// The VIPs that this box has.
    pub(crate) fn vips_at(&self, number: usize) -> Vec<IpAddr> {
        self.vips().into_iter().filter(|vip| self.members[number].has(*vip)).collect()
    }

    /// Asks each VIP from behind the router, until it answers.
    pub(crate) fn assert_all_answer(&self) {
        for vip in self.vips() {
            let address = SocketAddr::new(vip, HTTP.port);
            wait_until(LIMIT, &format!("an answer of {address}"), || {
                http_get(&self.client, address).map(Some)
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
        }
    }

    /// From now on nobody hears the box, and it hears nobody, but its link stays up: a dead switch port, or a dead box.
    pub(crate) fn cut_off(&self, number: usize) {
        self.lab.segment_ip(&format!("link set {} nomaster\n", BOXES[number])).unwrap();
    }

    pub(crate) fn heal(&self, number: usize) {
        let bridge = llb_tests::lab::BRIDGE;
        self.lab.segment_ip(&format!("link set {} master {bridge}\n", BOXES[number])).unwrap();
    }

    pub(crate) fn logs(&self) -> String {
        self.members.iter().map(Member::logs).collect()
    }
}

impl Member {
    fn state_dir(&self) -> PathBuf {
        self.host.directory().join(format!("{}.state", self.host.name()))
    }

    pub(crate) fn start_agent(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.agent = Some(Agent::start(&self.host, &arguments).unwrap_or_else(|error| panic!("{error:#}")));
    }

    /// As `llb-vrrp.service` starts it.
    pub(crate) fn start_keepalived(&mut self) {
        let folder = self.state_dir();
        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = match failovers() {
            Some(_) => self.host.command("chrt"),
            None => self.host.command("keepalived"),
        };
        if failovers().is_some() {
            command.args(["--rr", "50", "keepalived"]);
        }
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        command.arg(format!("--use-file={}", file("vrrp.conf")));
        command.arg(format!("--pid={}", file("vrrp.pid")));
        command.arg(format!("--vrrp_pid={}", file("vrrp-child.pid")));
        let name = format!("keepalived-{}", self.host.name());
        self.keepalived = Some(self.host.spawn(command, &name).unwrap());
    }

    /// The box loses power: nobody hears it from now on, and everything that runs on it ends at once.
    pub(crate) fn power_off(&mut self) {
        self.host.unplug().unwrap();
        self.kill_agent();
        self.keepalived.take().unwrap().kill9().unwrap();
    }

    /// The box starts again. A machine that starts has another boot ID, and neither markers nor VIPs; this one still has them,
    /// so it is plugged in after its agent has removed the VIPs.
    pub(crate) fn power_on(&mut self, vips: &[IpAddr]) {
        self.host.output(&["ip", "address", "flush", "dev", "lo", "to", "127.86.0.0/16"]).unwrap();
        std::fs::write(self.state_dir().join("ready/boot"), "of an earlier start\n").unwrap();
        self.start_agent();
        wait_until(LIMIT, "no VIP on a box that starts", || {
            Ok(vips.iter().all(|vip| !self.has(*vip)).then_some(()))
        })
        .unwrap();
        self.host.plug_in().unwrap();
        self.start_keepalived();
    }

    /// The shares that keepalived has given to this box.
    pub(crate) fn shares(&self) -> BTreeSet<u8> {
        let text = self.host.output(&["ip", "-4", "-o", "address", "show", "dev", "lo"]).unwrap();
        // "1: lo    inet 127.86.0.4/32 scope host lo ..."
        let addresses = text.lines().filter_map(|line| line.split_whitespace().nth(3));
        let numbers = addresses.filter_map(|address| address.strip_prefix("127.86.0.")?.strip_suffix("/32"));
        numbers.map(|number| number.parse().unwrap()).collect()
    }

    /// Runs a subcommand that gets the state folder.
    pub(crate) fn order(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let (binary, folder) = (llb_tests::agent::binary()?, self.state_dir());
        let mut command = vec![binary.to_str().unwrap()];
        command.extend(arguments);
        command.extend(["--state-dir", folder.to_str().unwrap()]);
        self.host.output(&command)
    }

    /// A page of the agent's admin endpoint.
    pub(crate) fn page(&self, path: &str) -> String {
        self.agent.as_ref().unwrap().get(path).unwrap()
    }

    /// Agent and keepalived are killed. The kernel is still there, so cut the box off first.
    pub(crate) fn kill_agent(&mut self) {
        self.agent.take().unwrap().kill9().unwrap();
    }

    pub(crate) fn stop_keepalived(&mut self) {
        let mut keepalived = self.keepalived.take().unwrap();
        keepalived.signal(Signal::TERM).unwrap();
        keepalived.wait_exit(LIMIT).unwrap();
    }

    pub(crate) fn has(&self, vip: IpAddr) -> bool {
        self.host.has_address(vip).unwrap()
    }

    /// For the agents that are started from now on.
    pub(crate) fn add_peer(&mut self, name: &str) {
        self.arguments.extend(["--peer", name].map(str::to_owned));
    }

    /// Starts an agent that takes over from the one that runs.
    pub(crate) fn restart_agent(&mut self) {
        let mut before = self.agent.take().unwrap();
        self.start_agent();
        before.wait_exit().unwrap();
    }

    /// Whether keepalived has read its configuration again.
    pub(crate) fn has_reloaded(&self) -> bool {
        self.keepalived_log().contains("Reload")
    }

    /// What keepalived has logged.
    fn keepalived_log(&self) -> String {
        self.keepalived.as_ref().map(Process::log).unwrap_or_default()
    }

    fn logs(&self) -> String {
        let agent = self.agent.as_ref().map(Agent::log).unwrap_or_default();
        format!("--- {}:\n{agent}\n{}\n", self.host.name(), self.keepalived_log())
    }
}

/// In mode `dsr`, waits until an agent gives clients to the nodes.
pub(crate) fn wait_for_clients(agent: &Agent) -> anyhow::Result<()> {
    wait_until(LIMIT, "the nodes to get clients", || {
        Ok((!agent.get("/explain/default/web")?.contains("waits")).then_some(()))
    })
}

/// A client that reaches the segment through a router.
pub(crate) fn add_client(lab: &mut Lab, hosts: Vec<Host>) -> Host {
    let router = lab.add_host("router").unwrap();
    let client = lab.add_host("client").unwrap();
    client.unplug().unwrap();
    client.ip(&format!("addr flush dev {}\n", Host::LINK)).unwrap();
    router
        .ip(&format!(
            "link add far type veth peer name near netns {}\nlink set far up\n\
             addr add 198.51.100.1/24 dev far\naddr add 2001:db8:1::1/64 dev far nodad\n",
            client.namespace().display()
        ))
        .unwrap();
    client
        .ip("link set near up\naddr add 198.51.100.2/24 dev near\naddr add 2001:db8:1::2/64 dev near nodad\n\
             route add default via 198.51.100.1\nroute add default via 2001:db8:1::1\n")
        .unwrap();
    client.output(&["ethtool", "-K", "near", "tx", "off"]).unwrap();
    router
        .output(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        .unwrap();
    let (v4, v6) = (router.ipv4(), router.ipv6());
    for host in hosts {
        host.ip(&format!("route add 198.51.100.0/24 via {v4}\nroute add 2001:db8:1::/64 via {v6}\n"))
            .unwrap();
    }
    client
}

fn servers_on(node: &Host) -> Vec<Server> {
    let name = node.name();
    let both = |port: u16| [node.at(port), node.at_v6(port)];
    let http = both(HTTP.node_port).map(|address| Server::http(node, address, name).unwrap());
    let udp = both(UDP.node_port).map(|address| Server::udp(node, address, name).unwrap());
    let echo = both(ECHO.node_port).map(|address| Server::echo(node, address).unwrap());
    http.into_iter().chain(udp).chain(echo).collect()
}
