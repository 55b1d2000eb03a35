// SPDX-License-Identifier: Apache-2.0
//! What only the plane sockmap does: the kernel moves bytes, and gives connections back to the relay.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use llb_tests::client::{connect, echo_all};
use llb_tests::manifests::PortSpec;
use llb_tests::wait_until;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, frontend};

/// Number of messages on one connection.
const MESSAGES: usize = 200;

pub(crate) fn the_kernel_moves_bytes_and_they_are_counted(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(30007);
    setup.serve("echo", &[setup.vip(), setup.vip_v6()], &[PortSpec::tcp("echo", 7, 30007)]);
    for vip in [setup.vip(), setup.vip_v6()] {
        let state = setup.agent.state().unwrap();
        let placement = &state["observed"]["frontends"][frontend(vip, 7, "TCP")]["placement"];
        assert_eq!(placement["plane"], "sockmap", "{placement}");
        assert_eq!(placement["why"], "--datapath sockmap; the self-test passed");

        let before = bytes(&setup);
        let mut stream = connect(setup.client(), SocketAddr::new(vip, 7)).unwrap();
        for _ in 0..MESSAGES {
            exchange(&mut stream, b"small");
        }
        assert_eq!(metric(&setup, "llb_sockmap_pairs"), 1);
        // Bytes are counted from time to time, not with each message.
        let sent = (MESSAGES * b"small".len()) as u64;
        wait_until(LIMIT, "the bytes to be counted", || {
            let now = bytes(&setup);
            anyhow::ensure!(now == before.map(|before| before + sent), "{now:?}");
            Ok(Some(()))
        })
        .unwrap();
        drop(stream);
        leaves_nothing(&setup);
    }
}

pub(crate) fn bulk_connections_return_to_the_relay_and_are_spliced(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(30007);
    setup.serve("echo", &[setup.vip()], &[PortSpec::tcp("echo", 7, 30007)]);
    let mut stream = connect(setup.client(), SocketAddr::new(setup.vip(), 7)).unwrap();
    exchange(&mut stream, b"small");
    assert_eq!(metric(&setup, "llb_sockmap_handovers_total"), 1);
    let content: Vec<u8> = (0..32 << 20).map(|index: u32| (index % 251) as u8).collect();
    // Not assert_eq, which would print both.
    assert!(echo_all(stream, content.clone()).unwrap() == content);
    let returned = ["bulk", "no_room", "ended"]
        .map(|reason| metric(&setup, &format!("llb_sockmap_returns_total{{reason=\"{reason}\"}}")));
    assert!(returned[0] + returned[1] > 0, "{returned:?}");
    leaves_nothing(&setup);
}

pub(crate) fn connections_beyond_the_largest_number_of_pairs_are_relayed(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--sockmap-max-pairs=4"]);
    setup.serve_echo(30007);
    setup.serve("echo", &[setup.vip()], &[PortSpec::tcp("echo", 7, 30007)]);
    let vip = SocketAddr::new(setup.vip(), 7);
    let mut streams: Vec<TcpStream> = (0..12).map(|_| connect(setup.client(), vip).unwrap()).collect();
    for _ in 0..MESSAGES {
        streams.iter_mut().for_each(|stream| exchange(stream, b"small"));
    }
    assert_eq!(metric(&setup, "llb_sockmap_pairs"), 4);
    assert_eq!(metric(&setup, "llb_sockmap_refusals_total"), 8);
    drop(streams);
    leaves_nothing(&setup);
}

pub(crate) fn a_killed_agent_resets_both_sides(plane: Plane) {
    let mut setup = Setup::new(plane);
    let node = setup.lab.host("node-1");
    let backend = node.run_inside(|| std::net::TcpListener::bind(node.at(30007))).unwrap().unwrap();
    setup.serve("cut", &[setup.vip()], &[PortSpec::tcp("cut", 7, 30007)]);
    let mut client = connect(setup.client(), SocketAddr::new(setup.vip(), 7)).unwrap();
    let (mut server, _) = backend.accept().unwrap();
    let mut buffer = [0; 5];
    for _ in 0..MESSAGES {
        client.write_all(b"small").unwrap();
        server.read_exact(&mut buffer).unwrap();
    }
    assert_eq!(metric(&setup, "llb_sockmap_pairs"), 1);
    setup.agent.process().kill9().unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    for mut side in [client, server] {
        let error = side.read(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// Waits until no map has an entry, and checks that no stream lost bytes.
pub(crate) fn leaves_nothing(setup: &Setup) {
    wait_until(LIMIT, "the maps to be empty", || {
        let left = ["llb_sockmap_pairs", "llb_sockmap_entries", "llb_sockmap_torn_total"];
        let left = left.map(|name| metric(setup, name));
        anyhow::ensure!(left == [0; 3], "{left:?}");
        Ok(Some(()))
    })
    .unwrap();
}

fn metric(setup: &Setup, name: &str) -> u64 {
    setup.agent.metric(name).unwrap()
}

fn bytes(setup: &Setup) -> [u64; 2] {
    ["forward", "reply"]
        .map(|direction| metric(setup, &format!("llb_relay_bytes_total{{direction=\"{direction}\"}}")))
}

fn exchange(stream: &mut TcpStream, message: &[u8]) {
    let mut answer = vec![0; message.len()];
    stream.write_all(message).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, message);
}
