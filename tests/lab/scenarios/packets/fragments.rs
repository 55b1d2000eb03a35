// SPDX-License-Identifier: Apache-2.0
//! Datagrams in fragments that arrive in reverse order, in both directions.

use std::net::{IpAddr, SocketAddr};

use llb_tests::fragments::{Fragmenting, FragmentingEcho};
use llb_tests::manifests;

use super::DNS;
use super::dsr::take;
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup, frontend};

const CLIENT_PORT: u16 = 46_000;
/// Bytes of a datagram: two fragments, three, and nearly as many as fit.
const SIZES: [usize; 3] = [1_500, 2_500, 60_000];
/// Per size.
const DATAGRAMS: usize = 4;

pub(crate) fn fragments_in_reverse_order_arrive(plane: Plane) {
    let setup = Setup::new(plane);
    let vips = [setup.vip(), setup.vip_v6()];
    let _servers = NODES.map(|node| {
        let host = setup.lab.host(node);
        [host.at(DNS.node_port), host.at_v6(DNS.node_port)]
            .map(|address| FragmentingEcho::start(host, address).unwrap())
    });
    setup.serve("dns", &vips, &[DNS]);
    let sent: u64 = vips.iter().map(|vip| exchange(&setup, *vip)).sum();
    // Both directions.
    wait_for_sent(&setup, 2 * sent);
}

pub(crate) fn in_mode_dsr_fragments_in_reverse_order_arrive(plane: Plane) {
    let setup = Setup::new(plane);
    let vips = [setup.vip(), setup.vip_v6()];
    let all = NODES.iter().flat_map(|node| vips.map(|vip| (setup.lab.host(node), vip)));
    let servers = all.map(|(host, vip)| {
        take(host, vip);
        FragmentingEcho::start(host, SocketAddr::new(vip, DNS.port))
    });
    let _servers = servers.collect::<Result<Vec<_>, _>>().unwrap();
    let yaml = manifests::annotated_service("dns", &vips, &[DNS], "llb.dev/mode: dsr");
    setup.manifests.write("dns.yaml", &yaml).unwrap();
    for vip in vips {
        setup.wait_serving(vip, DNS.port, DNS.protocol);
        let state = setup.agent.state().unwrap();
        let frontend = frontend(vip, DNS.port, DNS.protocol);
        let placement = &state["observed"]["frontends"][&frontend]["placement"];
        assert_eq!(placement["mode"], "dsr", "{frontend}: {placement}");
    }
    let sent: u64 = vips.iter().map(|vip| exchange(&setup, *vip)).sum();
    wait_for_sent(&setup, sent);
}

/// Sends datagrams in fragments, the last one first, and reads the answers, which come in the same way. Returns how many
/// fragments came before the first one of their datagram, in one direction.
fn exchange(setup: &Setup, vip: IpAddr) -> u64 {
    let client = setup.client();
    let local = if vip.is_ipv4() { client.at(CLIENT_PORT) } else { client.at_v6(CLIENT_PORT) };
    let mut end = Fragmenting::open(client, local).unwrap();
    let to = SocketAddr::new(vip, DNS.port);
    let mut early = 0;
    for (n, size) in SIZES.iter().flat_map(|size| (0..DATAGRAMS).map(move |n| (n, *size))) {
        let content: Vec<u8> = (0..size).map(|place| (place * 7 + place / 251 + n) as u8).collect();
        let (answer, from) = ask(setup, &mut end, to, &content);
        assert_eq!(from, to);
        assert!(answer == content, "{size} bytes to {vip}: other bytes came back");
        early += (size as u64 + 8).div_ceil(1000) - 1;
    }
    early
}

/// Sends the datagram and reads its answer. It is sent again only if the agent says that fragments waited for too long, as
/// they do on a busy machine.
fn ask(setup: &Setup, end: &mut Fragmenting, to: SocketAddr, content: &[u8]) -> (Vec<u8>, SocketAddr) {
    const EXPIRED: &str = "llb_packet_early_fragments_total{result=\"expired\"}";
    let mut buffer = vec![0; 65_536];
    end.socket.set_read_timeout(Some(LIMIT)).unwrap();
    loop {
        let expired = setup.agent.metric(EXPIRED).unwrap();
        end.send(to, content).unwrap();
        match end.socket.recv_from(&mut buffer) {
            Ok((count, from)) => {
                buffer.truncate(count);
                return (buffer, from);
            }
            Err(error) => assert!(
                setup.agent.metric(EXPIRED).unwrap() > expired,
                "{} bytes to {to}: {error}\n{}",
                content.len(),
                setup.agent.get("/metrics").unwrap_or_default()
            ),
        }
    }
}

/// The agent has sent at least so many fragments; it counts them after it has sent them.
fn wait_for_sent(setup: &Setup, fragments: u64) {
    let name = "llb_packet_early_fragments_total{result=\"sent\"}";
    llb_tests::wait_until(LIMIT, "the agent to count what it sent", || {
        Ok((setup.agent.metric(name)? >= fragments).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {fragments}"));
}
