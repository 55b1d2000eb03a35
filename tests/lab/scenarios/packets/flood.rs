// SPDX-License-Identifier: Apache-2.0
//! Open connections keep their flow entries, however many new flows begin.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use llb_tests::client::http_get;
use llb_tests::flood::{Flood, Pace};
use llb_tests::steady::connect_all;
use llb_tests::{Host, Steady, wait_until};

use super::{ECHO, HTTP, dsr};
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup};

/// Connections to each VIP.
const CONNECTIONS: usize = 20;
const ROUNDS: usize = 50;
/// More than all flow entries that fit, pending ones included.
const PACKETS: u64 = 100_000;
const FLOWS: &str = "4096";

pub(crate) fn a_flood_of_openings_breaks_no_connection(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--max-flows", FLOWS]);
    setup.serve_echo(ECHO.node_port);
    let vips = [setup.vip(), setup.lab.vip(1)];
    setup.serve("nat", &vips[..1], &[ECHO]);
    let _servers = dsr::serve(&setup, "dsr", &vips[1..]);
    let streams =
        vips.map(|vip| connect_all(setup.client(), SocketAddr::new(vip, ECHO.port), CONNECTIONS).unwrap());
    let steady = Steady::start(streams.into_iter().flatten().collect());
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();

    let attacker = setup.lab.add_host("attacker").unwrap();
    let targets = vips.map(|vip| target(vip, ECHO.port));
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let before = setup.agent.connections().unwrap();
    let flood = Flood::start(&attacker, &targets, seed, Pace::FULL);
    flood.wait_for_more(PACKETS, 2 * LIMIT).unwrap();
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    // Check that the flood reached the tables, and was not stopped on the way.
    wait_until(LIMIT, "more flows than are remembered", || {
        Ok((setup.agent.connections()? - before > FLOWS.parse()?).then_some(()))
    })
    .unwrap();
    println!("{} packets of the flood", flood.stop().unwrap());
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    assert_eq!(steady.stop().unwrap(), [""; 0]);
}

/// At most 250 openings a second, 125 for each backend. An opening holds its port for up to two ticks, so at
/// most 270 of 1,000 ports are taken. All 16 ports that are tried are taken in 1 of 10^9 cases.
const PACE: Pace = Pace { burst: 1, rest: Duration::from_millis(4) };
const FEW_PORTS: &str = "20000-20999";
/// More openings than both backends together have source ports.
const OPENINGS: u64 = 2_200;
const REQUESTS: usize = 20;

pub(crate) fn a_flood_of_openings_leaves_ports_for_others(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--snat-ports", FEW_PORTS]);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    leaves_ports_for_others(&mut setup, Flood::start);
}

/// On every packet plane: nodes that drop what they do not know answer neither of these packets, as behind a
/// firewall, or behind kube-proxy, which drops what connection tracking calls invalid.
pub(crate) fn stray_packets_leave_ports_for_others(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--snat-ports", FEW_PORTS]);
    setup.serve_http(HTTP.node_port);
    let rules = "add table inet silent; \
        add chain inet silent output { type filter hook output priority 0; }; \
        add rule inet silent output tcp flags & rst == rst drop";
    for node in NODES {
        setup.lab.host(node).output(&["nft", rules]).unwrap();
    }
    setup.serve("web", &[setup.vip()], &[HTTP]);
    leaves_ports_for_others(&mut setup, Flood::of_stray_packets);
}

pub(super) fn target(vip: IpAddr, port: u16) -> SocketAddrV4 {
    match vip {
        IpAddr::V4(vip) => SocketAddrV4::new(vip, port),
        IpAddr::V6(vip) => unreachable!("{vip}"),
    }
}

/// Requests succeed under this flood, and no new flow lacks a source port.
fn leaves_ports_for_others(setup: &mut Setup, start: fn(&Host, &[SocketAddrV4], u64, Pace) -> Flood) {
    let attacker = setup.lab.add_host("attacker").unwrap();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let flood = start(&attacker, &[target(setup.vip(), HTTP.port)], seed, PACE);
    flood.wait_for_more(OPENINGS, 2 * LIMIT).unwrap();
    for _ in 0..REQUESTS {
        http_get(setup.client(), SocketAddr::new(setup.vip(), HTTP.port)).unwrap();
    }
    println!("{} packets of the flood", flood.stop().unwrap());
    let exhausted = setup.agent.metric("llb_packet_reasons_total{reason=\"ports_exhausted\"}").unwrap();
    assert_eq!(exhausted, 0);
}
