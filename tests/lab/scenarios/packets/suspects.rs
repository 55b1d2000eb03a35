// SPDX-License-Identifier: Apache-2.0
//! Connections that a node does not answer though it is well: they move to another node, and it keeps its share
//! of all others.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use llb_tests::client::{Load, Tally, count_by_name, http_get};
use llb_tests::{Host, Server, wait_until};
use socket2::{Domain, Protocol, Socket, Type};

use super::HTTP;
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup, is_free_of_problems};

/// Each lost SYN costs a request a second.
const LOAD_LIMIT: Duration = Duration::from_secs(60);
/// How long the slow server works on each connection.
const WORK: Duration = Duration::from_millis(50);

/// With this protocol number a raw socket sends packets with the IP header that they come with (raw(7)).
const IPPROTO_RAW: i32 = 255;

pub(crate) fn a_client_whose_syns_are_wrong_takes_no_node_from_others(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    let raw = Some(Protocol::from(IPPROTO_RAW));
    let socket = setup.client().run_inside(|| Socket::new(Domain::IPV4, Type::RAW, raw)).unwrap().unwrap();
    for client_port in 5000..5003 {
        let wrong = wrong_syn(setup.client().ipv4(), client_port, vip);
        let before = setup.agent.connections().unwrap();
        wait_until(LIMIT, "the flow of a wrong SYN to move to the other node", || {
            socket.send_to(&wrong, &vip.into())?;
            Ok((setup.agent.connections()? == before + 2).then_some(()))
        })
        .unwrap();
        let answered = count_by_name(40, || http_get(setup.client(), vip)).unwrap();
        assert_eq!(answered.len(), NODES.len(), "{answered:?}");
    }
    assert_is_well(&setup);
}

pub(crate) fn a_node_to_which_some_packets_are_lost_keeps_its_share(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    let rules = "add table inet lossy; \
        add chain inet lossy input { type filter hook input priority 0; }; \
        add rule inet lossy input tcp dport 30080 tcp flags == syn numgen inc mod 50 == 25 drop";
    setup.lab.host("node-1").output(&["nft", rules]).unwrap();
    let load = Load::start(setup.client(), vip);
    load.wait_for_more(400, LOAD_LIMIT).unwrap();
    let Tally { answers, failures } = load.stop().unwrap();
    assert_eq!(failures, Vec::<String>::new(), "{answers:?}");
    let (all, least) = (answers.values().sum::<usize>(), answers.values().min().unwrap());
    assert!(answers.len() == NODES.len() && *least >= all / 3, "{answers:?}");
    assert_is_well(&setup);
}

pub(crate) fn a_node_that_can_not_accept_all_connections_keeps_getting_some(plane: Plane) {
    /// One more than the slow server works on and lets wait.
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 40;
    let setup = Setup::new(plane);
    let nodes = NODES.map(|node| setup.lab.host(node));
    let _slow = SlowServer::start(nodes[0], nodes[0].at(HTTP.node_port), NODES[0]);
    let _fast = Server::http(nodes[1], nodes[1].at(HTTP.node_port), NODES[1]).unwrap();
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    let loads: Vec<Load> = (0..CLIENTS).map(|_| Load::start(setup.client(), vip)).collect();
    loads.iter().try_for_each(|load| load.wait_for_more(REQUESTS, LOAD_LIMIT)).unwrap();
    let tallies: Vec<Tally> = loads.into_iter().map(|load| load.stop().unwrap()).collect();
    let answers = |node: &str| tallies.iter().filter_map(|tally| tally.answers.get(node)).sum::<usize>();
    let [slow, fast] = NODES.map(answers);
    assert!(slow >= REQUESTS && fast >= REQUESTS, "{slow} and {fast}: {tallies:?}");
    assert_is_well(&setup);
}

/// Nothing of all this makes a dead backend.
fn assert_is_well(setup: &Setup) {
    let state = setup.agent.state().unwrap();
    assert!(is_free_of_problems(&state), "{state:#}");
    assert!(!setup.agent.log().contains("backend is dead"), "{}", setup.agent.log());
}

/// A SYN whose TCP checksum is wrong. The kernel fills in the length and the checksum of the IPv4 header.
fn wrong_syn(client: Ipv4Addr, client_port: u16, vip: SocketAddr) -> [u8; 40] {
    let IpAddr::V4(address) = vip.ip() else { panic!("{vip} is not an IPv4 address") };
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&client.octets());
    packet[16..20].copy_from_slice(&address.octets());
    packet[20..22].copy_from_slice(&client_port.to_be_bytes());
    packet[22..24].copy_from_slice(&vip.port().to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = 1 << 1;
    packet[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
    packet[36..38].copy_from_slice(&0x0bad_u16.to_be_bytes());
    packet
}

/// An HTTP server that works on one connection at a time, slowly, and lets one more wait.
struct SlowServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SlowServer {
    fn start(host: &Host, address: SocketAddr, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), name.to_owned());
        let socket = host.run_inside(|| listen(address)).unwrap().unwrap();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A client may have given up, and the socket's time-out is the chance to stop.
                let Ok((stream, peer)) = socket.accept() else { continue };
                let _ = answer(stream, &format!("{name} {}\n", peer.as_socket().unwrap()));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for SlowServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    socket.set_read_timeout(Some(WORK))?;
    Ok(socket)
}

#[expect(clippy::disallowed_methods, reason = "not a wait: the server is slow")]
fn answer(mut stream: Socket, body: &str) -> io::Result<()> {
    std::thread::sleep(WORK);
    stream.set_read_timeout(Some(WORK))?;
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes())
}
