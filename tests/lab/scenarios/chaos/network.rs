// SPDX-License-Identifier: Apache-2.0
//! The network of the chaos: hosts on the segment, a backend behind a gateway, and plain routing beside llb. Every host
//! that is an end has two addresses: one for llb, and one by which clients and backends reach each other through the
//! balancer as a router, in both directions.
//!
//! ```text
//!   client   balancer   node-1   node-2        far
//!     |         | |       |        |         |     |
//!   --+---------+---------+--------+---+--  gateway other
//!                 |                    |     |       |
//!                 |                    +-----+-------+
//!                 +--- side ------------------------ other
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use llb_tests::{Host, Lab, Server, manifests};

use super::way::{Way, vips};
use crate::scenarios::packets::{DNS, ECHO, HTTP};
use crate::setup::{NODES, Setup};

/// The far backend's addresses for llb.
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 42)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x42)),
];
/// The last numbers of the hosts' addresses for plain routing.
const CLIENT: u8 = 10;
const FAR_NUMBER: u8 = 42;

/// The balancer's second address of each family.
pub(super) const OTHER_SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 60);
pub(super) const OTHER_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x60);

/// The hosts besides those of every lab, and all servers.
pub(super) struct Network {
    pub(super) far: Host,
    pub(super) gateway: Host,
    pub(super) other_gateway: Host,
    _servers: Vec<Server>,
}

/// An address for plain routing, of each family.
fn plain(number: u8) -> [IpAddr; 2] {
    let last = u16::from_str_radix(&number.to_string(), 16).unwrap();
    [Ipv4Addr::new(198, 51, 100, number).into(), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last).into()]
}

impl Network {
    /// Adds hosts, routes and servers to the lab, and tells the agent about the far node.
    pub(super) fn build(setup: &mut Setup, way: Way) -> Self {
        let [gateway, other_gateway, far] =
            ["gateway", "other", "far"].map(|name| setup.lab.add_host(name).unwrap());
        far.unplug().unwrap();
        far.ip("addr flush dev eth0\n").unwrap();
        connect(&gateway, &far, "near", 0);
        connect(&other_gateway, &far, "near2", 1);
        connect(&other_gateway, setup.lab.balancer(), "side", 2);
        for host in setup.lab.hosts() {
            let redirects = ["net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0"];
            let more = ["net.ipv4.conf.eth0.send_redirects=0", "net.ipv6.conf.all.accept_redirects=0"];
            let v6 = ["net.ipv6.conf.default.accept_redirects=0", "net.ipv6.conf.eth0.accept_redirects=0"];
            host.output(&[&["sysctl", "-q", "-w"], &redirects[..], &more[..], &v6[..]].concat()).unwrap();
        }
        for router in [setup.lab.balancer(), &gateway, &other_gateway] {
            let forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
            router.output(&["sysctl", "-q", "-w", forward[0], forward[1]]).unwrap();
        }
        give_addresses_and_routes(&setup.lab, &far, &gateway, &other_gateway);
        let mut network = Self { far, gateway, other_gateway, _servers: Vec::new() };
        network.restore_balancer(&setup.lab).unwrap();
        network._servers = serve(setup, way, &network.far);
        network
    }

    /// The balancer's own addresses, and its routes, as they are when nothing happens.
    pub(super) fn restore_balancer(&self, lab: &Lab) -> Result<()> {
        let balancer = lab.balancer();
        let (v4, v6) = (balancer.ipv4(), balancer.ipv6());
        balancer.ip(&format!(
            "addr replace {v4}/24 dev eth0\naddr replace {OTHER_SOURCE}/24 dev eth0\n\
             addr replace {v6}/64 dev eth0 nodad\naddr replace {OTHER_SOURCE_V6}/64 dev eth0 nodad\n"
        ))?;
        self.prefer_source(lab, v4, v6)?;
        for (number, host) in [(CLIENT, lab.client()), (31, lab.host(NODES[0])), (32, lab.host(NODES[1]))] {
            let [to, to_v6] = plain(number);
            balancer.ip(&format!(
                "route replace {to} via {} dev eth0\nroute replace {to_v6} via {} dev eth0\n",
                host.ipv4(),
                host.ipv6()
            ))?;
        }
        Ok(())
    }

    /// The balancer's routes to the segment and to the far host, with this preferred source.
    pub(super) fn prefer_source(&self, lab: &Lab, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
        lab.balancer().ip(&format!(
            "route replace 192.0.2.0/24 dev eth0 proto kernel scope link src {v4}\n\
             route replace 2001:db8::/64 dev eth0 proto kernel metric 256 src {v6}\n"
        ))?;
        let (via, via_v6) = (self.gateway.ipv4(), self.gateway.ipv6());
        self.route_to_far(
            lab,
            &format!("via {via} dev eth0 src {v4}"),
            &format!("via {via_v6} dev eth0 src {v6}"),
        )
    }

    /// Makes these the balancer's routes to the far host.
    pub(super) fn route_to_far(&self, lab: &Lab, v4: &str, v6: &str) -> Result<()> {
        let routes = [FAR, plain(FAR_NUMBER)]
            .map(|[to, to_v6]| format!("route replace {to} {v4}\nroute replace {to_v6} {v6}\n"));
        lab.balancer().ip(&routes.concat())
    }

    /// Where plain connections lead: each backend by each family.
    pub(super) fn plain_targets(&self, way: Way, port: u16) -> Vec<SocketAddr> {
        let numbers: &[u8] = if way.is_dsr { &[31, 32] } else { &[31, 32, FAR_NUMBER] };
        numbers.iter().flat_map(|number| plain(*number)).map(|address| (address, port).into()).collect()
    }
}

/// Starts all servers, and tells the agent about the far node.
fn serve(setup: &Setup, way: Way, far: &Host) -> Vec<Server> {
    let lab = &setup.lab;
    let nodes = NODES.map(|name| lab.host(name));
    let mut yaml = manifests::nodes(&nodes);
    let mut places: Vec<(&Host, [IpAddr; 2])> = Vec::new();
    for (host, number) in [(nodes[0], 31), (nodes[1], 32), (far, FAR_NUMBER)] {
        places.push((host, plain(number)));
    }
    for host in nodes {
        places.push((host, [host.ipv4().into(), host.ipv6().into()]));
    }
    // In mode dsr, backends are on the segment.
    if !way.is_dsr {
        places.push((far, FAR));
        yaml.push_str(&manifests::node("far", &FAR));
    }
    setup.manifests.write("nodes.yaml", &yaml).unwrap();
    let mut servers = Vec::new();
    for (host, address) in places.into_iter().flat_map(|(host, both)| both.map(|one| (host, one))) {
        servers.push(Server::echo(host, (address, ECHO.node_port).into()).unwrap());
        servers.push(Server::http(host, (address, HTTP.node_port).into(), host.name()).unwrap());
        servers.push(Server::udp(host, (address, DNS.node_port).into(), host.name()).unwrap());
    }
    if way.is_dsr {
        for (host, vip) in nodes.into_iter().flat_map(|host| vips(setup).map(|vip| (host, vip))) {
            crate::scenarios::packets::dsr::take(host, vip);
            servers.push(Server::echo(host, (vip, ECHO.port).into()).unwrap());
            servers.push(Server::http(host, (vip, HTTP.port).into(), host.name()).unwrap());
            servers.push(Server::udp(host, (vip, DNS.port).into(), host.name()).unwrap());
        }
    }
    servers
}

/// The addresses of a router and of `end` on the link between them.
fn transit(number: u8) -> [String; 4] {
    [
        format!("203.0.113.{}", 4 * number + 1),
        format!("203.0.113.{}", 4 * number + 2),
        format!("2001:db8:3:{number}::1"),
        format!("2001:db8:3:{number}::2"),
    ]
}

/// Joins `router` and `end` by a link of their own: `link` at the end, and its name with "r-" at the router.
fn connect(router: &Host, end: &Host, link: &str, number: u8) {
    let [router_v4, end_v4, router_v6, end_v6] = transit(number);
    let namespace = end.namespace();
    router
        .ip(&format!(
            "link add r-{link} type veth peer name {link} netns {}\nlink set r-{link} up\n\
             addr add {router_v4}/30 dev r-{link}\naddr add {router_v6}/64 dev r-{link} nodad\n",
            namespace.display()
        ))
        .unwrap();
    end.ip(&format!(
        "link set lo up\nlink set {link} up\naddr add {end_v4}/30 dev {link}\naddr add {end_v6}/64 dev {link} nodad\n"
    ))
    .unwrap();
    // No network card on the way computes checksums.
    end.output(&["ethtool", "-K", link, "tx", "off"]).unwrap();
    router.output(&["ethtool", "-K", &format!("r-{link}"), "tx", "off"]).unwrap();
}

fn give_addresses_and_routes(lab: &Lab, far: &Host, gateway: &Host, other_gateway: &Host) {
    let balancer = lab.balancer();
    let [client, client_v6] = plain(CLIENT);
    for (host, number) in [(lab.client(), CLIENT), (lab.host(NODES[0]), 31), (lab.host(NODES[1]), 32)] {
        let [own, own_v6] = plain(number);
        let (via, via_v6) = (balancer.ipv4(), balancer.ipv6());
        host.ip(&format!(
            "addr add {own}/32 dev lo\naddr add {own_v6}/128 dev lo nodad\n\
             route add 198.51.100.0/24 via {via} src {own}\nroute add 2001:db8:1::/64 via {via_v6} src {own_v6}\n"
        ))
        .unwrap();
    }
    let [own, own_v6] = plain(FAR_NUMBER);
    let [via, _, via_v6, _] = transit(0);
    far.ip(&format!(
        "addr add {own}/32 dev lo\naddr add {own_v6}/128 dev lo nodad\naddr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n\
         route add default via {via}\nroute add default via {via_v6}\n",
        FAR[0], FAR[1]
    ))
    .unwrap();
    for (router, number) in [(gateway, 0), (other_gateway, 1)] {
        let [_, to_far, _, to_far_v6] = transit(number);
        let mut routes = format!(
            "route add {client} via {}\nroute add {client_v6} via {}\n",
            balancer.ipv4(),
            balancer.ipv6()
        );
        for [to, to_v6] in [FAR, plain(FAR_NUMBER)] {
            routes.push_str(&format!("route add {to} via {to_far}\nroute add {to_v6} via {to_far_v6}\n"));
        }
        router.ip(&routes).unwrap();
    }
    // What the balancer sends by its other link has that link's address.
    let [side, _, side_v6, _] = transit(2);
    let network = format!("{side}/30").replace(".9/", ".8/");
    let network_v6 = format!("{side_v6}/64").replace("::1/", "::/");
    gateway
        .ip(&format!(
            "route add {network} via {}\nroute add {network_v6} via {}\n",
            balancer.ipv4(),
            balancer.ipv6()
        ))
        .unwrap();
}

/// The next hop of the balancer's other link.
pub(super) fn by_the_other_link() -> [String; 2] {
    let [v4, _, v6, _] = transit(2);
    [format!("via {v4} dev side"), format!("via {v6} dev side")]
}
