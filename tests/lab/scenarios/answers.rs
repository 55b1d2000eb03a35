// SPDX-License-Identifier: Apache-2.0
//! ICMP errors that llb sends itself, as any router would: packet too big, time exceeded.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use llb_tests::manifests::PortSpec;
use llb_tests::{Host, wait_until};

use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup};

const DNS: PortSpec<'static> = PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };

/// Time for one datagram and its answer.
const ANSWER: Duration = Duration::from_millis(500);

/// Larger than the route to the backends allows, smaller than the link's own MTU.
const LARGE: usize = 1400;

pub(crate) fn the_client_learns_the_mtu_when_its_datagrams_are_too_large(plane: Plane) {
    let mut setup = Setup::new(plane);
    for node in NODES {
        let (v4, v6) = (setup.lab.host(node).ipv4(), setup.lab.host(node).ipv6());
        let routes = format!("route add {v4}/32 dev eth0 mtu 1300\nroute add {v6}/128 dev eth0 mtu 1300\n");
        setup.lab.balancer().ip(&routes).unwrap();
    }
    setup.serve_udp(30053);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("dns", &vips, &[DNS]);
    for vip in vips {
        let socket = socket(setup.client(), vip);
        let mut buffer = [0; 2 * LARGE];
        // The first datagram is dropped, and the ICMP error tells the client the MTU; from then on the client
        // fragments.
        wait_until(LIMIT, &format!("an answer from {vip} to {LARGE} bytes"), || {
            // A send may return the error of the datagram before.
            let _ = socket.send(&[7; LARGE]);
            Ok(socket.recv(&mut buffer).ok().map(drop))
        })
        .unwrap();
        let route = setup.client().output(&["ip", "route", "get", &vip.to_string()]).unwrap();
        assert!(route.contains("mtu 1300"), "{route}");
    }
}

pub(crate) fn an_expired_hop_limit_is_reported_to_the_client(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_udp(30053);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("dns", &vips, &[DNS]);
    for vip in vips {
        let socket = socket2::Socket::from(socket(setup.client(), vip));
        match vip {
            IpAddr::V4(_) => socket.set_ttl_v4(1).unwrap(),
            IpAddr::V6(_) => socket.set_unicast_hops_v6(1).unwrap(),
        }
        let before = told(setup.client(), vip);
        wait_until(LIMIT, &format!("the client to be told of {vip}"), || {
            socket.send(b"hop")?;
            Ok((told(setup.client(), vip) > before).then_some(()))
        })
        .unwrap();
    }
}

fn socket(client: &Host, vip: IpAddr) -> UdpSocket {
    let any = if vip.is_ipv4() { client.at(0) } else { client.at_v6(0) };
    let socket = client.run_inside(|| UdpSocket::bind(any)).unwrap().unwrap();
    socket.connect(SocketAddr::new(vip, 53)).unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket
}

/// How often a host got the ICMP error "time exceeded".
fn told(host: &Host, vip: IpAddr) -> u64 {
    if vip.is_ipv6() {
        let counts = host.output(&["cat", "/proc/net/snmp6"]).unwrap();
        let line = counts.lines().find_map(|line| line.strip_prefix("Icmp6InTimeExcds")).unwrap();
        return line.trim().parse().unwrap();
    }
    // One line of names, then one of numbers.
    let counts = host.output(&["cat", "/proc/net/snmp"]).unwrap();
    let mut lines = counts.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let position = names.split(' ').position(|name| name == "InTimeExcds").unwrap();
    numbers.split(' ').nth(position).unwrap().parse().unwrap()
}
