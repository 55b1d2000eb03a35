// SPDX-License-Identifier: Apache-2.0
//! A Service moves from the packet plane to the relay and back.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use llb_tests::client::connect;
use llb_tests::steady::connect_all;
use llb_tests::{Steady, Wrk, manifests};

use super::{ECHO, HTTP};
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// Connections to each VIP.
const CONNECTIONS: usize = 20;
const ROUNDS: usize = 20;

pub(crate) fn a_move_to_the_relay_and_back_breaks_no_connection(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(ECHO.node_port);
    setup.serve_http(HTTP.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    let ports = [ECHO, HTTP];
    setup.serve("both", &vips, &ports);
    let plain = manifests::service("both", &vips, &ports);
    // The PROXY header is a line of text before the request. The servers take it for the first line.
    let relayed = manifests::annotated_service("both", &vips, &ports, "llb.dev/proxy-protocol: v1");
    let addresses = vips.map(|vip| SocketAddr::new(vip, ECHO.port));
    let open = |count| addresses.map(|vip| connect_all(setup.client(), vip, count).unwrap());

    let by_packets = Steady::start(open(CONNECTIONS).into_iter().flatten().collect());
    let load = vips.map(|vip| Wrk::start(setup.client(), SocketAddr::new(vip, HTTP.port)).unwrap());
    by_packets.wait_for_rounds(ROUNDS, LIMIT).unwrap();

    let move_to = |yaml: &str, name: &str| {
        setup.manifests.write("both.yaml", yaml).unwrap();
        for vip in vips {
            ports.iter().for_each(|port| setup.wait_on_plane(vip, port.port, port.protocol, name));
        }
    };
    move_to(&relayed, "userspace");
    let streams = open(CONNECTIONS).into_iter().flatten().map(past_the_header);
    let by_relay = Steady::start(streams.collect());
    let go_on = || {
        by_packets.wait_for_rounds(ROUNDS, LIMIT).unwrap();
        by_relay.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    };
    go_on();
    for _ in 0..2 {
        move_to(&plain, "packet");
        go_on();
        move_to(&relayed, "userspace");
        go_on();
    }
    move_to(&plain, "packet");
    go_on();

    // Connections that begin now have no header.
    let mut new = connect(setup.client(), addresses[0]).unwrap();
    llb_tests::client::echo_on(&mut new, b"new").unwrap();
    assert_eq!(by_packets.stop().unwrap(), [""; 0]);
    assert_eq!(by_relay.stop().unwrap(), [""; 0]);
    for load in load {
        let outcome = load.stop().unwrap();
        println!("{} answered", outcome.answered);
        assert_eq!(outcome.failures, [""; 0], "of {}", outcome.answered);
    }
}

/// The connections that an agent relays end with it. So their packets are not for the programs, even if the agent that
/// is in charge by now has no relayed connections itself.
pub(crate) fn a_move_from_the_relay_of_the_agent_before_breaks_no_connection(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(ECHO.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    let relayed = manifests::annotated_service("echo", &vips, &[ECHO], "llb.dev/proxy-protocol: v1");
    let plain = manifests::service("echo", &vips, &[ECHO]);
    let move_to = |setup: &Setup, yaml: &str, name: &str| {
        setup.manifests.write("echo.yaml", yaml).unwrap();
        vips.iter().for_each(|vip| setup.wait_on_plane(*vip, ECHO.port, ECHO.protocol, name));
    };
    setup.serve("echo", &vips, &[ECHO]);
    move_to(&setup, &relayed, "userspace");
    let addresses = vips.map(|vip| SocketAddr::new(vip, ECHO.port));
    let streams = addresses.map(|vip| connect_all(setup.client(), vip, CONNECTIONS).unwrap());
    let by_relay = Steady::start(streams.into_iter().flatten().map(past_the_header).collect());
    by_relay.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    let _first = setup.succeed_agent();
    move_to(&setup, &plain, "packet");
    by_relay.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    let _second = setup.succeed_agent();
    vips.iter().for_each(|vip| setup.wait_on_plane(*vip, ECHO.port, ECHO.protocol, "packet"));
    by_relay.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    let mut new = connect(setup.client(), addresses[0]).unwrap();
    llb_tests::client::echo_on(&mut new, b"new").unwrap();
    assert_eq!(by_relay.stop().unwrap(), [""; 0]);
}

/// Reads the header that the server has echoed; what follows it is the echo of our own bytes.
fn past_the_header(mut stream: TcpStream) -> TcpStream {
    let mut last = [0];
    while last != *b"\n" {
        stream.read_exact(&mut last).unwrap();
    }
    stream
}
