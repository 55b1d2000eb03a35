// SPDX-License-Identifier: Apache-2.0
//! The lab with all contenders. Each of them has a host of its own, and all these hosts are set up alike, so
//! they do not disturb each other.
//!
//! ```text
//!   client   routing (2)   nftables   haproxy   nginx   xdp   tc   userspace   node
//!      |         |            |          |        |      |     |       |        |
//!    --+---------+------------+----------+--------+------+-----+-------+--------+--   one bridge
//! ```

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;

use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Agent, Host, Lab, Manifests, Process, object, wait_until};

use super::contender::Contender;
use super::stopped::Stopped;
use crate::echo::{self, Sink};
use crate::probe::LIMIT;
use crate::programs::{
    ECHO, HTTP, IPERF, SINK, Servers, forward, open_many_connections, start_haproxy, start_nginx_stream,
};
use crate::snmp::counter;

/// A router, and the two addresses of client and node that reach each other only by it, as numbers among the
/// lab's VIPs.
struct Router {
    contender: Contender,
    name: &'static str,
    client: u8,
    node: u8,
}

const ROUTERS: [Router; 2] = [
    Router { contender: Contender::Routing, name: "routing", client: 20, node: 21 },
    Router { contender: Contender::RoutingOnXdp, name: "routing-xdp", client: 22, node: 23 },
];

const CLIENT: &str = "client";
const NODE: &str = "node";

/// Everything that runs. Fields are dropped in this order: the lab goes last.
pub(crate) struct Stage {
    agents: Vec<Llb>,
    balancers: Vec<(Contender, Process)>,
    servers: Servers,
    _pass_programs: Vec<Ebpf>,
    lab: Lab,
}

/// An agent and the contenders that it serves.
struct Llb {
    agent: Agent,
    host: Host,
    contenders: Vec<Contender>,
    _manifests: Manifests,
}

impl Stage {
    pub(crate) fn build(contenders: &[Contender], has_offload: bool) -> Result<Self> {
        let mut lab = Lab::empty()?;
        let client = lab.add_host(CLIENT)?;
        let node = lab.add_host(NODE)?;
        let nftables = lab.add_host("nftables")?;
        let haproxy = lab.add_host("haproxy")?;
        let nginx = lab.add_host("nginx")?;
        for host in [&client, &node] {
            host.output(&["sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0"])?;
            host.output(&["sysctl", "-qw", "net.ipv4.conf.eth0.accept_redirects=0"])?;
        }
        for router in &ROUTERS {
            lab.add_host(router.name)?;
        }
        let vip = |contender: Contender| lab.vip(contender.number());
        let own = prepare_node(&lab, &node)?;
        ROUTERS.iter().try_for_each(|router| route(&lab, &client, router, &node))?;
        translate(&nftables, vip(Contender::Nftables), &node)?;
        add_address(&haproxy, vip(Contender::Haproxy), 24)?;
        add_address(&nginx, vip(Contender::Nginx), 24)?;
        [&haproxy, &nginx].into_iter().try_for_each(open_many_connections)?;
        let servers = Servers::start(&node, &own)?;
        let balancers = vec![
            (Contender::Haproxy, start_haproxy(&haproxy, vip(Contender::Haproxy), &node)?),
            (Contender::Nginx, start_nginx_stream(&nginx, vip(Contender::Nginx), &node)?),
        ];
        let mut stage = Self { agents: Vec::new(), balancers, servers, _pass_programs: Vec::new(), lab };
        if contenders.contains(&Contender::RoutingOnXdp) {
            let host = stage.lab.host(ROUTERS[1].name).clone();
            stage.prepare_for_xdp(&host)?;
            stage._pass_programs.push(host.run_inside(|| object::pass_at(Host::LINK))??);
            host.output(&["ethtool", "-K", Host::LINK, "gro", "off"])?;
        }
        for (name, flags, served) in [
            ("llb-xdp", &["--datapath", "xdp"][..], &[Contender::XdpNat, Contender::XdpDsr][..]),
            ("llb-tc", &["--datapath", "tc"], &[Contender::TcNat, Contender::TcDsr]),
            ("llb-userspace", &["--datapath", "userspace"], &[Contender::Userspace]),
        ] {
            let served: Vec<Contender> =
                served.iter().copied().filter(|contender| contenders.contains(contender)).collect();
            if !served.is_empty() {
                stage.add_llb(name, flags, &served)?;
            }
        }
        if !has_offload {
            stage.lab.without_offload()?;
        }
        for contender in contenders {
            stage.wait_until_answers(*contender)?;
        }
        stage.check_planes()?;
        ROUTERS.iter().try_for_each(|router| stage.check_routing(router))?;
        Ok(stage)
    }

    /// The address to which clients send.
    pub(crate) fn address(&self, contender: Contender) -> IpAddr {
        match contender {
            Contender::Direct => IpAddr::V4(self.lab.host(NODE).ipv4()),
            other => match ROUTERS.iter().find(|router| router.contender == other) {
                Some(router) => self.lab.vip(router.node),
                None => self.lab.vip(other.number()),
            },
        }
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.host(CLIENT)
    }

    pub(crate) fn node(&self) -> &Host {
        self.lab.host(NODE)
    }

    /// Adds a host to the segment.
    pub(crate) fn add_host(&mut self, name: &str) -> Result<Host> {
        self.lab.add_host(name)
    }

    /// Makes packets from `host` with these source addresses take the same ways as the client's packets, in
    /// both directions.
    pub(crate) fn add_sources(&self, host: &Host, sources: &str) -> Result<()> {
        let behind_it = format!("route add {sources} via {}", host.ipv4());
        self.node().ip(&behind_it)?;
        self.lab.host("nftables").ip(&behind_it)?;
        for router in &ROUTERS {
            let (via, node_address) = (self.lab.host(router.name), self.lab.vip(router.node));
            host.ip(&format!("route add {node_address}/32 via {}", via.ipv4()))?;
            via.ip(&behind_it)?;
            let table = router.node;
            self.node().ip(&format!("rule add from {node_address} lookup {table}"))?;
            self.node().ip(&format!("route add {sources} via {} table {table}", via.ipv4()))?;
        }
        Ok(())
    }

    pub(crate) fn sink(&self) -> &Sink {
        &self.servers.sink
    }

    /// Stops the programs of all other contenders until the result is dropped.
    pub(crate) fn stop_others(&mut self, contender: Contender) -> Result<Stopped> {
        let agents = self.agents.iter_mut().filter(|llb| !llb.contenders.contains(&contender));
        let balancers = self.balancers.iter().filter(|(other, _)| *other != contender);
        Stopped::stop(agents.map(|llb| llb.agent.process().pid()).chain(balancers.map(|(_, one)| one.pid())))
    }

    /// All logs, for an error.
    pub(crate) fn logs(&self) -> String {
        let mut logs = String::new();
        for llb in &self.agents {
            logs.push_str(&llb.agent.log());
        }
        for process in self.balancers.iter().map(|(_, process)| process).chain(&self.servers.processes) {
            logs.push_str(&process.log_tail());
        }
        logs
    }

    /// Checks that each frontend is, and has been, on the plane that its name says. A row that measures
    /// something else would be worse than none.
    pub(crate) fn check_planes(&self) -> Result<()> {
        self.agents.iter().try_for_each(|llb| {
            let state = llb.agent.state()?;
            for contender in &llb.contenders {
                for port in ports() {
                    let address = SocketAddr::new(self.address(*contender), port.port);
                    let frontend = &state["observed"]["frontends"][format!("{address}/{}", port.protocol)];
                    let (plane, mode) = place(*contender);
                    ensure!(
                        frontend["placement"]["plane"] == plane
                            && frontend["placement"]["mode"].as_str() == mode
                            && frontend["phase"] == "serving",
                        "{}: {address}/{} is not served by {plane} {mode:?}: {frontend:#}\n{:#}",
                        contender.name(),
                        port.protocol,
                        state["problems"]
                    );
                }
            }
            let link = llb.host.output(&["ip", "link", "show", "dev", Host::LINK])?;
            let is_xdp = llb.contenders.iter().any(|contender| contender.is_on_xdp());
            ensure!(
                link.contains(" xdp ") == is_xdp && !link.contains("xdpgeneric"),
                "on {} XDP should {}be native: {link}",
                llb.host.name(),
                if is_xdp { "" } else { "not " }
            );
            let relayed = llb.agent.metric("llb_relay_connections_total")?;
            ensure!(
                relayed == 0 || llb.contenders == [Contender::Userspace],
                "{relayed} connections were relayed on {}",
                llb.host.name()
            );
            Ok(())
        })
    }

    fn add_llb(&mut self, name: &str, flags: &[&str], contenders: &[Contender]) -> Result<()> {
        let host = self.lab.add_host(name)?;
        if contenders.iter().any(|contender| contender.is_on_xdp()) {
            self.prepare_for_xdp(&host)?;
        }
        if contenders == [Contender::Userspace] {
            open_many_connections(&host)?;
        }
        let manifests = Manifests::new(&host, &format!("manifests-{name}"))?;
        manifests.write("nodes.yaml", &manifests::nodes(&[self.lab.host(NODE)]))?;
        for contender in contenders {
            let (_, mode) = place(*contender);
            let service = format!("{name}-{}", mode.unwrap_or("relay"));
            let mut yaml = manifests::service(&service, &[self.address(*contender)], &ports());
            if let Some(mode) = mode {
                yaml = yaml
                    .replace("  annotations:\n", &format!("  annotations:\n    llb.dev/mode: \"{mode}\"\n"));
            }
            manifests.write(&format!("{service}.yaml"), &yaml)?;
        }
        let folder = manifests.path().display().to_string();
        let agent = Agent::start(&host, &[flags, &["--manifests", &folder]].concat())?;
        if contenders.iter().any(|contender| contender.is_on_xdp()) {
            host.output(&["ethtool", "-K", Host::LINK, "gro", "off"])?;
        }
        self.agents.push(Llb { agent, host, contenders: contenders.to_vec(), _manifests: manifests });
        Ok(())
    }

    /// Packets that XDP sends back arrive only if the other end of the veth pair has an XDP program too. With
    /// one, that end joins segments (GRO), unlike the other hosts' ports.
    fn prepare_for_xdp(&mut self, host: &Host) -> Result<()> {
        self._pass_programs.push(self.lab.inside_segment(|| object::pass_at(host.name()))??);
        self.lab.inside_segment(|| ethtool(&["-K", host.name(), "gro", "off"]))?
    }

    fn wait_until_answers(&self, contender: Contender) -> Result<()> {
        wait_until(LIMIT, &format!("an answer through {}", contender.name()), || {
            let url = format!("http://{}/", self.address(contender));
            self.client().output(&["curl", "--silent", "--fail", "--max-time", "2", &url]).map(Some)
        })
        .with_context(|| self.logs())?;
        Ok(())
    }

    /// Checks that packets of plain routing pass the router in both directions.
    fn check_routing(&self, router: &Router) -> Result<()> {
        let forwarded = || counter(self.lab.host(router.name), "Ip:", "ForwDatagrams");
        let before = forwarded()?;
        echo::greet(self.client(), SocketAddr::new(self.address(router.contender), SINK.front))?;
        let count = forwarded()? - before;
        ensure!(count >= 2, "the router has forwarded {count} packets of a question and its answer");
        Ok(())
    }
}

/// The plane and the mode that `/state` must show.
fn place(contender: Contender) -> (&'static str, Option<&'static str>) {
    match contender {
        Contender::XdpNat | Contender::TcNat => ("packet", Some("nat")),
        Contender::XdpDsr | Contender::TcDsr => ("packet", Some("dsr")),
        _ => ("userspace", None),
    }
}

fn ports() -> [PortSpec<'static>; 5] {
    [
        PortSpec::tcp("http", HTTP.front, HTTP.back),
        PortSpec::tcp("iperf", IPERF.front, IPERF.back),
        PortSpec::tcp("echo", ECHO.front, ECHO.back),
        PortSpec::udp("udp", ECHO.front, ECHO.back),
        PortSpec::udp("sink", SINK.front, SINK.back),
    ]
}

/// The node's addresses besides its first one: the end of the routed way, and the VIPs whose packets it gets
/// unchanged, which nobody on the segment is told of.
fn prepare_node(lab: &Lab, node: &Host) -> Result<Vec<IpAddr>> {
    for setting in ["arp_ignore=1", "arp_announce=2"] {
        node.output(&["sysctl", "-qw", &format!("net.ipv4.conf.all.{setting}")])?;
    }
    let routed = ROUTERS.each_ref().map(|router| lab.vip(router.node));
    routed.iter().try_for_each(|address| add_address(node, *address, 32))?;
    let unchanged = [Contender::XdpDsr, Contender::TcDsr].map(|contender| lab.vip(contender.number()));
    for vip in unchanged {
        node.ip(&format!("addr add {vip}/32 dev lo"))?;
    }
    Ok([routed, unchanged].concat())
}

/// Client and node are on one segment. Host routes lead through the router, which must not tell them about the
/// shorter way.
fn route(lab: &Lab, client: &Host, router: &Router, node: &Host) -> Result<()> {
    let via = lab.host(router.name);
    forward(via)?;
    let (client_address, node_address) = (lab.vip(router.client), lab.vip(router.node));
    add_address(client, client_address, 32)?;
    for (host, own, other) in [(client, client_address, node_address), (node, node_address, client_address)] {
        host.ip(&format!("route add {other}/32 via {} src {own}", via.ipv4()))?;
    }
    Ok(())
}

fn translate(host: &Host, vip: IpAddr, node: &Host) -> Result<()> {
    forward(host)?;
    add_address(host, vip, 24)?;
    let node = node.ipv4();
    let rules: String = ports()
        .iter()
        .map(|PortSpec { port, protocol, node_port, .. }| {
            format!(
                "ip daddr {vip} {} dport {port} dnat to {node}:{node_port}\n",
                protocol.to_ascii_lowercase()
            )
        })
        .collect();
    let file = host.directory().join("nat.nft");
    std::fs::write(
        &file,
        format!(
            "table ip nat {{\n\
             chain in {{ type nat hook prerouting priority dstnat;\n{rules}}}\n\
             chain out {{ type nat hook postrouting priority srcnat;\nip daddr {node} masquerade\n}}\n}}\n"
        ),
    )?;
    host.output(&["nft", "-f", &file.display().to_string()]).map(drop)
}

fn add_address(host: &Host, address: IpAddr, prefix: u8) -> Result<()> {
    host.ip(&format!("addr add {address}/{prefix} dev {}", Host::LINK))
}

/// Runs in the namespace of the calling thread.
fn ethtool(arguments: &[&str]) -> Result<()> {
    let status = std::process::Command::new("ethtool").args(arguments).status()?;
    ensure!(status.success(), "ethtool {arguments:?}: {status}");
    Ok(())
}
