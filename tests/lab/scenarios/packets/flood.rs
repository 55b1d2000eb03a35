//! Connections that are open keep their places, whatever else begins.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use llb_tests::steady::connect_all;
use llb_tests::{Flood, Steady, wait_until};

use super::{ECHO, dsr};
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// On each VIP.
const CONNECTIONS: usize = 20;
const ROUNDS: usize = 50;
/// More than all flows that are remembered, pending ones included.
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
    let targets = vips.map(|vip| match vip {
        IpAddr::V4(vip) => SocketAddrV4::new(vip, ECHO.port),
        IpAddr::V6(vip) => unreachable!("{vip}"),
    });
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let before = setup.agent.connections().unwrap();
    let flood = Flood::start(&attacker, &targets, seed);
    flood.wait_for_more(PACKETS, 2 * LIMIT).unwrap();
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    // It was not turned away somewhere before.
    wait_until(LIMIT, "more flows than are remembered", || {
        Ok((setup.agent.connections()? - before > FLOWS.parse()?).then_some(()))
    })
    .unwrap();
    println!("{} packets of the flood", flood.stop().unwrap());
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    assert_eq!(steady.stop().unwrap(), [""; 0]);
}
