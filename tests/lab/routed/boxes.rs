// SPDX-License-Identifier: Apache-2.0
//! A lab with two boxes whose VIPs are routed: one with BIRD, one with FRR. A client is behind a router that
//! spreads connections over both, and two nodes answer. It contains no tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use llb_tests::client::{connect, echo_on, http_get};
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Host, Lab, Manifests, Server, wait_until};

use super::daemons::Daemons;
use crate::group::boxes::{ECHO, HTTP, UDP, add_client, wait_for_clients};
use crate::plane::{Plane, Prepared};
use crate::scenarios::packets::dsr;
use crate::setup::{LIMIT, NODES};

/// The boxes: the first has BIRD, the second FRR.
pub(crate) const BOXES: [&str; 2] = ["box-a", "box-b"];
/// The link that has the VIPs.
pub(crate) const VIP_LINK: &str = "llb0";
const PORTS: [PortSpec<'static>; 3] = [HTTP, ECHO, UDP];

/// Fields are dropped in this order: what runs ends before the lab.
pub(crate) struct Boxes {
    pub(crate) agents: Vec<Option<Agent>>,
    daemons: Vec<Daemons>,
    _servers: Vec<Server>,
    manifests: Manifests,
    _prepared: Prepared,
    pub(crate) hosts: Vec<Host>,
    pub(crate) router: Host,
    pub(crate) client: Host,
    pub(crate) lab: Lab,
    arguments: Vec<String>,
}

impl Boxes {
    /// Everything runs, and the router knows two ways to each VIP.
    pub(crate) fn new(plane: Plane, more: &[&str]) -> Self {
        let mut lab = Lab::empty().unwrap();
        let hosts: Vec<Host> = BOXES.iter().map(|name| lab.add_host(name).unwrap()).collect();
        let nodes: Vec<Host> = NODES.iter().map(|name| lab.add_host(name).unwrap()).collect();
        let prepared = plane.prepare(&mut lab).unwrap();
        let client = add_client(&mut lab, [&hosts[..], &nodes[..]].concat());
        let router = lab.host("router").clone();
        // Each connection takes a way of its own.
        let spread = ["net.ipv4.fib_multipath_hash_policy=1", "net.ipv6.fib_multipath_hash_policy=1"];
        router.output(&["sysctl", "-q", "-w", spread[0], spread[1]]).unwrap();
        let manifests = Manifests::new(&hosts[0], "manifests").unwrap();
        manifests.write("nodes.yaml", &manifests::nodes(&nodes.iter().collect::<Vec<_>>())).unwrap();
        let folder = manifests.path().to_str().unwrap();
        let flags = ["--manifests", folder, "--announce", "routed", "--mode", "dsr"];
        let pool = ["--pool", "203.0.113.0/28,2001:db8:2::/124"];
        let arguments = flags.iter().chain(&pool).chain(plane.arguments()).chain(more);
        let arguments: Vec<String> = arguments.map(|argument| (*argument).to_owned()).collect();
        let daemons = vec![
            Daemons::router(&router, &hosts),
            Daemons::bird_on_box(&hosts[0], &router),
            Daemons::frr_on_box(&hosts[1], &router),
        ];
        let servers =
            nodes.iter().flat_map(|node| servers_on(node, matches!(plane, Plane::Userspace))).collect();
        let mut all = Self {
            agents: hosts.iter().map(|_| None).collect(),
            daemons,
            _servers: servers,
            manifests,
            _prepared: prepared,
            hosts,
            router,
            client,
            lab,
            arguments,
        };
        let yaml = manifests::service("web", &VIPS, &PORTS);
        all.manifests.write("web.yaml", &yaml).unwrap();
        for number in 0..BOXES.len() {
            all.start_agent(number);
        }
        all.wait_for_ways(&BOXES);
        for agent in all.agents.iter().flatten() {
            wait_for_clients(agent).unwrap_or_else(|error| panic!("{error:#}\n{}", all.logs()));
        }
        all
    }

    pub(crate) fn start_agent(&mut self, number: usize) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let agent = Agent::start(&self.hosts[number], &arguments).unwrap_or_else(|error| panic!("{error:#}"));
        self.agents[number] = Some(agent);
    }

    pub(crate) fn agent(&mut self, number: usize) -> &mut Agent {
        self.agents[number].as_mut().unwrap()
    }

    /// The router's ways to a VIP.
    pub(crate) fn ways(&self, vip: IpAddr) -> String {
        let family = if vip.is_ipv4() { "-4" } else { "-6" };
        self.router.output(&["ip", family, "route", "show", &vip.to_string()]).unwrap()
    }

    /// Waits until the router leads clients of each VIP to these boxes and no others.
    pub(crate) fn wait_for_ways(&self, boxes: &[&str]) {
        for vip in VIPS {
            let what = format!("ways to {vip} by {boxes:?}");
            let is_there = |host: &Host, text: &str| {
                // Over IPv6 a box may name itself by its link-local address, which is made of its MAC.
                let [.., last] = host.mac();
                let near = format!("fe80::200:5eff:fe00:53{last:02x}");
                let names = [host.ipv4().to_string(), host.ipv6().to_string(), near];
                names.iter().any(|name| text.contains(&format!("via {name} ")))
            };
            wait_until(LIMIT, &what, || {
                let text = self.ways(vip);
                let found = self.hosts.iter().filter(|host| is_there(host, &text));
                let found: Vec<&str> = found.map(Host::name).collect();
                if found == boxes { Ok(Some(())) } else { anyhow::bail!("{text}") }
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
        }
    }

    pub(crate) fn assert_all_answer(&self) {
        for vip in VIPS {
            let address = SocketAddr::new(vip, HTTP.port);
            wait_until(LIMIT, &format!("an answer of {address}"), || {
                http_get(&self.client, address).map(Some)
            })
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
        }
    }

    /// Open connections to each VIP, so many that both boxes have some of them.
    pub(crate) fn open_connections(&self) -> Vec<TcpStream> {
        const OF_EACH_VIP: usize = 40;
        let before: Vec<u64> = self.counts();
        let all = VIPS.iter().flat_map(|vip| std::iter::repeat_n(*vip, OF_EACH_VIP));
        let open: Vec<TcpStream> = all
            .map(|vip| {
                let address = SocketAddr::new(vip, ECHO.port);
                let mut stream =
                    wait_until(LIMIT, "a connection", || connect(&self.client, address).map(Some))
                        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
                echo_on(&mut stream, b"hello").unwrap();
                stream
            })
            .collect();
        let grown = self.counts().into_iter().zip(before).map(|(now, before)| now - before);
        let grown: Vec<u64> = grown.collect();
        assert!(grown.iter().all(|count| *count > 10), "connections at each box: {grown:?}");
        open
    }

    /// How many connections each box has served.
    fn counts(&self) -> Vec<u64> {
        self.agents.iter().flatten().map(|agent| agent.connections().unwrap()).collect()
    }

    pub(crate) fn logs(&self) -> String {
        let agents = self.agents.iter().flatten().map(|agent| agent.log() + "\n");
        agents.chain(self.daemons.iter().map(Daemons::logs)).collect()
    }
}

/// In no subnet of a link device.
pub(crate) const VIPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 5))];

/// The VIPs on the link for them; `None` without the link.
pub(crate) fn vips_on(host: &Host) -> Option<Vec<IpAddr>> {
    let text = host.output(&["ip", "-o", "address", "show", "dev", VIP_LINK]).ok()?;
    let is_there = |vip: &IpAddr| text.contains(&format!(" {vip}/"));
    Some(VIPS.into_iter().filter(is_there).collect())
}

/// With the relay, the node's own ports answer; else the VIPs are on `lo` of the node, as kube-proxy makes it.
fn servers_on(node: &Host, is_relayed: bool) -> Vec<Server> {
    let name = node.name();
    let at = |vip: IpAddr, port: &PortSpec<'_>| match (is_relayed, vip) {
        (false, _) => SocketAddr::new(vip, port.port),
        (true, IpAddr::V4(_)) => node.at(port.node_port),
        (true, IpAddr::V6(_)) => node.at_v6(port.node_port),
    };
    let mut servers = Vec::new();
    for vip in VIPS {
        if !is_relayed {
            dsr::take(node, vip);
        }
        servers.push(Server::http(node, at(vip, &HTTP), name).unwrap());
        servers.push(Server::echo(node, at(vip, &ECHO)).unwrap());
        servers.push(Server::udp(node, at(vip, &UDP), name).unwrap());
    }
    servers
}
