// SPDX-License-Identifier: Apache-2.0
//! Short outages of the network. Connections outlive them, as they do without llb.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use llb_tests::client::{connect, echo_on, udp_ask_on};
use llb_tests::manifests::{self, PortSpec};
use llb_tests::steady::connect_all;
use llb_tests::{Host, Server, agent, wait_until};
use serde_json::Value;

use super::ECHO;
use super::routers::{FAR, add_far_host};
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup, frontend};

const UDP: PortSpec<'static> = PortSpec { name: "udp", port: 53, protocol: "UDP", node_port: 30053 };
/// Connections to each VIP. All of them have one backend in 1 of 2^15 runs.
const CONNECTIONS: usize = 16;
/// TCP repeats a packet at growing pauses.
const PATIENCE: Duration = Duration::from_secs(40);
const NO_NEIGHBOUR: &str = "llb_packet_reasons_total{reason=\"no_neighbour\"}";

/// A backend on the segment, and one behind a router.
struct World {
    setup: Setup,
    far: Host,
    _servers: Vec<Server>,
}

/// What clients have open.
struct Clients {
    streams: Vec<TcpStream>,
    sockets: Vec<UdpSocket>,
}

impl World {
    fn new(plane: Plane) -> Self {
        let mut setup = Setup::new(plane);
        let far = add_far_host(&mut setup);
        setup.serve_echo(ECHO.node_port);
        setup.serve_udp(UDP.node_port);
        let far_addresses = FAR.map(|address| address.parse::<IpAddr>().unwrap());
        let servers = far_addresses.into_iter().flat_map(|address| {
            let echo = Server::echo(&far, SocketAddr::new(address, ECHO.node_port)).unwrap();
            [echo, Server::udp(&far, SocketAddr::new(address, UDP.node_port), "far").unwrap()]
        });
        let servers = servers.collect();
        let near = setup.lab.host(NODES[0]);
        let nodes = [manifests::nodes(&[near]), manifests::node("far", &far_addresses)];
        setup.manifests.write("nodes.yaml", &nodes.concat()).unwrap();
        setup.serve("web", &[setup.vip(), setup.vip_v6()], &[ECHO, UDP]);
        Self { setup, far, _servers: servers }
    }

    fn vips(&self) -> [IpAddr; 2] {
        [self.setup.vip(), self.setup.vip_v6()]
    }

    fn open(&self) -> Clients {
        let client = self.setup.client();
        let streams: Vec<_> = self
            .vips()
            .into_iter()
            .flat_map(|vip| connect_all(client, SocketAddr::new(vip, ECHO.port), CONNECTIONS).unwrap())
            .collect();
        streams.iter().for_each(|stream| stream.set_read_timeout(Some(PATIENCE)).unwrap());
        let sockets = self.vips().map(|vip| {
            let any: SocketAddr = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
            let socket = client.run_inside(|| UdpSocket::bind(any)).unwrap().unwrap();
            socket.connect(SocketAddr::new(vip, UDP.port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket
        });
        let mut clients = Clients { streams, sockets: sockets.into() };
        clients.exchange("at first");
        clients
    }

    /// The next hops of both backends, both families.
    fn next_hops(&self) -> Vec<IpAddr> {
        [NODES[0], "router"]
            .into_iter()
            .map(|name| self.setup.lab.host(name))
            .flat_map(|host| [IpAddr::from(host.ipv4()), IpAddr::from(host.ipv6())])
            .collect()
    }

    /// Waits until the balancer's kernel says `text` about each next hop.
    fn wait_neighbours(&self, text: &str) {
        let hops = self.next_hops();
        wait_until(LIMIT, &format!("{text:?} of {hops:?}"), || {
            let shown = self.setup.lab.balancer().output(&["ip", "neigh", "show", "dev", Host::LINK])?;
            let has = |hop: &IpAddr| {
                shown.lines().any(|line| line.starts_with(&format!("{hop} ")) && line.contains(text))
            };
            anyhow::ensure!(hops.iter().all(has), "{shown}");
            Ok(Some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\nthe agent's log:\n{}", self.setup.agent.log()));
    }

    /// Waits until all backends on these VIPs are dead for this reason.
    fn wait_dead(&self, vips: &[IpAddr], reason: &str) {
        let is_so = |state: &Value| {
            vips.iter().all(|vip| {
                let port = frontend(*vip, ECHO.port, ECHO.protocol);
                let failed = state["failed_backends"][port].as_object();
                failed.is_some_and(|all| all.len() == 2 && all.values().all(|one| one["reason"] == reason))
            })
        };
        self.setup.agent.wait_for_state(LIMIT, &format!("{reason} of all backends"), is_so).unwrap();
    }

    fn dropped(&self) -> u64 {
        self.setup.agent.metric(NO_NEIGHBOUR).unwrap()
    }
}

impl Clients {
    /// A message on each connection and in each UDP flow, and its answer.
    fn exchange(&mut self, when: &str) {
        self.send();
        self.receive(when);
        for (number, socket) in self.sockets.iter().enumerate() {
            udp_ask_on(socket, when).unwrap_or_else(|error| panic!("{when}: UDP {number}: {error:#}"));
        }
    }

    fn send(&mut self) {
        for stream in &mut self.streams {
            // If it is reset, the answer tells.
            let _ = stream.write_all(b"message");
        }
    }

    fn receive(&mut self, when: &str) {
        let mut broken = Vec::new();
        for (number, stream) in self.streams.iter_mut().enumerate() {
            let mut answer = [0; b"message".len()];
            if let Err(error) = stream.read_exact(&mut answer) {
                broken.push(format!("{number}: {error}"));
            } else {
                assert_eq!(&answer, b"message", "{when}: {number}");
            }
        }
        assert_eq!(broken, [""; 0], "{when}: of {} connections", self.streams.len());
    }
}

pub(crate) fn connections_outlive_short_outages_of_the_network(plane: Plane) {
    let world = World::new(plane);
    let balancer = world.setup.lab.balancer();
    let mut clients = world.open();
    let before = world.dropped();

    balancer.output(&["ip", "neigh", "flush", "dev", Host::LINK]).unwrap();
    clients.exchange("after a flush");
    world.wait_neighbours(" lladdr ");
    clients.exchange("when neighbours are known again");

    balancer.unplug().unwrap();
    // The agent has seen that they are gone, and the kernel looks for them.
    world.wait_neighbours("");
    balancer.plug_in().unwrap();
    clients.exchange("after the cable was out for a moment");
    world.wait_neighbours(" lladdr ");
    clients.exchange("when neighbours are known after that");
    assert_eq!(world.dropped(), before, "nothing was dropped so far");

    outlive_the_loss_of_all_backends(&world, &mut clients);
}

/// All backends are away for longer than neighbours are waited for, and the balancer's own addresses too.
fn outlive_the_loss_of_all_backends(world: &World, clients: &mut Clients) {
    let (setup, lab) = (&world.setup, &world.setup.lab);
    let balancer = lab.balancer();
    let hosts = [NODES[0], "router"].map(|name| lab.host(name));
    hosts.iter().for_each(|host| host.unplug().unwrap());
    world.wait_dead(&world.vips(), "no_neighbour");
    let problem = setup.agent.wait_for_problem(LIMIT, "BackendsUnreachable").unwrap();
    assert!(problem.contains("default/web"), "{problem}");
    let before = world.dropped();
    clients.send();
    wait_until(LIMIT, "each connection's packet to be dropped", || {
        let dropped = world.dropped() - before;
        anyhow::ensure!(dropped >= clients.streams.len() as u64, "{dropped}");
        Ok(Some(()))
    })
    .unwrap();
    for vip in world.vips() {
        let vip = SocketAddr::new(vip, ECHO.port);
        let short = Duration::from_millis(300);
        let refused = setup.client().run_inside(|| TcpStream::connect_timeout(&vip, short)).unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::TimedOut, "{vip}: TCP tries again");
    }

    // A network daemon takes its addresses away, and puts them back.
    let (v4, v6) = (balancer.ipv4(), balancer.ipv6());
    balancer.ip(&format!("addr del {v4}/24 dev eth0\naddr del {v6}/64 dev eth0\n")).unwrap();
    // Of IPv6, the kernel keeps routes by a router.
    world.wait_dead(&[setup.vip()], "no_route");
    balancer.ip(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n")).unwrap();
    balancer
        .ip(&format!(
            "route replace 198.51.100.0/24 via {}\nroute replace 2001:db8:1::/64 via {}\n",
            hosts[1].ipv4(),
            hosts[1].ipv6()
        ))
        .unwrap();
    hosts.iter().for_each(|host| host.plug_in().unwrap());
    clients.receive("after all backends were away");
    clients.exchange("when they are back");
    for (vip, far) in world.vips().into_iter().zip(FAR) {
        let mut stream = connect(setup.client(), SocketAddr::new(vip, ECHO.port)).unwrap();
        echo_on(&mut stream, b"a new connection").unwrap_or_else(|error| panic!("{vip}: {error:#}"));
        // Both backends are used again.
        let backend = SocketAddr::new(far.parse().unwrap(), ECHO.node_port);
        let explained = setup.agent.get("/explain/default/web").unwrap();
        assert!(explained.contains(&backend.to_string()), "{}: {explained}", world.far.name());
    }
    let is_over = |state: &Value| agent::problem(state, "BackendsUnreachable").is_none();
    setup.agent.wait_for_state(2 * LIMIT, "the problem to be over", is_over).unwrap();
}
