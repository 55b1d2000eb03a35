// SPDX-License-Identifier: Apache-2.0
//! Where the checks happen: a lab whose balancer is a virtual machine. Client and nodes are namespaces, as in every
//! lab; the servers run, and the manifests lie where the machine's agent reads them. It starts no agent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use llb_tests::lab::BRIDGE;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Host, Lab, Manifests, Server};

use crate::bulk;
use crate::card::Card;
use crate::kernel::Kernel;
use crate::machine::Machine;

/// The machine's addresses, which no other host of the lab has.
pub(crate) const IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
pub(crate) const IPV6: &str = "2001:db8::20";

/// The ports of both Services.
pub(crate) const HTTP: PortSpec<'static> =
    PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };
pub(crate) const BULK: PortSpec<'static> =
    PortSpec { name: "bulk", port: 9000, protocol: "TCP", node_port: 30900 };
pub(crate) const DNS: PortSpec<'static> =
    PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };

pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];

/// The Service of each mode, and the number of its VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nat,
    Dsr,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Nat, Self::Dsr];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
        }
    }
}

/// Fields are dropped in this order: the lab goes last.
pub(crate) struct Stage {
    pub(crate) machine: Machine,
    _servers: Vec<Server>,
    pub(crate) lab: Lab,
    /// The card in use, and the name of its link.
    link: Option<(Card, String)>,
}

impl Stage {
    /// Builds the lab, boots the machine and loads the drivers of its cards.
    pub(crate) fn start(kernel: &Kernel, cards: &[Card]) -> Result<Self> {
        let mut lab = Lab::empty()?;
        for name in ["client"].iter().chain(&NODES) {
            lab.add_host(name)?;
        }
        for card in cards {
            let tap = card.tap();
            lab.segment_ip(&format!("{}link set {tap} master {BRIDGE} up\n", card.add_tap()))?;
        }
        let hosts = NODES.map(|name| lab.host(name));
        let manifests = Manifests::new(hosts[0], "manifests")?;
        manifests.write("nodes.yaml", &manifests::nodes(&hosts))?;
        let mut servers = Vec::new();
        for mode in Mode::ALL {
            let vips = vips(&lab, mode);
            let yaml = manifests::annotated_service(
                mode.name(),
                &vips,
                &[HTTP, BULK, DNS],
                &format!("llb.dev/mode: {}", mode.name()),
            );
            manifests.write(&format!("{}.yaml", mode.name()), &yaml)?;
            for host in hosts {
                for vip in vips {
                    serve(host, mode, vip, &mut servers)?;
                }
            }
        }
        let mut machine = Machine::start(kernel, &lab, cards, None)?;
        let modules: Vec<&str> = cards.iter().map(|card| card.module()).collect();
        machine.run(&format!("modprobe -a veth {} && ip link set lo up", modules.join(" ")))?;
        Ok(Self { machine, _servers: servers, lab, link: None })
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.client()
    }

    /// Both VIPs of a Service.
    pub(crate) fn vips(&self, mode: Mode) -> [IpAddr; 2] {
        vips(&self.lab, mode)
    }

    /// Gives the machine's addresses to this card, and takes them from the one before.
    pub(crate) fn use_card(&mut self, card: Card) -> Result<()> {
        if let Some((_, old)) = self.link.take() {
            self.machine.run(&format!("ip addr flush dev {old}; ip link set {old} down"))?;
        }
        let find = format!("grep -l {} /sys/class/net/*/address | cut -d/ -f5", card.mac());
        let link = self.machine.run(&find)?.trim().to_owned();
        anyhow::ensure!(!link.is_empty(), "the machine has no link for {}", card.name());
        self.machine.run(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/{link}/accept_dad; ip link set {link} up && \
             ip addr add {IPV4}/24 dev {link} && ip addr add {IPV6}/64 dev {link} nodad"
        ))?;
        for host in self.lab.hosts() {
            host.ip("neigh flush dev eth0\n")?;
        }
        self.link = Some((card, link));
        Ok(())
    }

    /// The link of the card in use.
    pub(crate) fn link(&self) -> &str {
        self.link.as_ref().map_or("", |(_, link)| link)
    }

    /// Sets the MTU of the link in use.
    pub(crate) fn machine_mtu(&mut self, mtu: u32) -> Result<()> {
        let link = self.link().to_owned();
        self.machine.run(&format!("ip link set {link} mtu {mtu}")).map(drop)
    }

    /// Sets the MTU of the segment and of all hosts but the machine.
    pub(crate) fn set_mtu(&self, mtu: u32) -> Result<()> {
        let taps = self.link.iter().map(|(card, _)| card.tap());
        let ports = self.lab.hosts().map(|host| host.name().to_owned()).chain(taps);
        let lines: String = ports.map(|port| format!("link set {port} mtu {mtu}\n")).collect();
        self.lab.segment_ip(&format!("{lines}link set {BRIDGE} mtu {mtu}\n"))?;
        self.lab.hosts().try_for_each(|host| host.ip(&format!("link set eth0 mtu {mtu}\n")))
    }
}

fn vips(lab: &Lab, mode: Mode) -> [IpAddr; 2] {
    [lab.vip(mode as u8), lab.vip_v6(mode as u8)]
}

/// Starts the servers of a Service on a node, for the family of `vip`. In mode dsr the node has the VIP itself, which
/// it does not announce.
fn serve(host: &Host, mode: Mode, vip: IpAddr, servers: &mut Vec<Server>) -> Result<()> {
    let at = |port: PortSpec<'_>| match (mode, vip) {
        (Mode::Dsr, _) => SocketAddr::new(vip, port.port),
        (Mode::Nat, IpAddr::V4(_)) => host.at(port.node_port),
        (Mode::Nat, IpAddr::V6(_)) => host.at_v6(port.node_port),
    };
    if mode == Mode::Dsr {
        let silent = ["net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"];
        host.output(&["sysctl", "-q", "-w", silent[0], silent[1]])?;
        let (bits, nodad) = if vip.is_ipv4() { (32, "") } else { (128, "nodad") };
        host.ip(&format!("addr add {vip}/{bits} dev lo {nodad}\n"))?;
    }
    servers.push(Server::http(host, at(HTTP), host.name())?);
    servers.push(Server::udp(host, at(DNS), host.name())?);
    bulk::serve(host, at(BULK))
}
