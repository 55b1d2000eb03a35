// SPDX-License-Identifier: Apache-2.0
//! Mode dsr: nodes get the clients' packets unchanged, and answer the clients directly.

use std::net::{IpAddr, SocketAddr};

use llb_tests::client::{connect, count_by_name, echo_all, http_get};
use llb_tests::{Host, Server, manifests};

use super::{ECHO, HTTP};
use crate::plane::Plane;
use crate::setup::{NODES, Setup, frontend};

/// With two nodes, 40 random choices fall on one node in 1 of 2^39 runs.
const REQUESTS: usize = 40;

pub(crate) fn nodes_see_the_client_and_answer_it_directly(plane: Plane) {
    let setup = Setup::new(plane);
    let vips = [setup.vip(), setup.vip_v6()];
    let _servers = serve(&setup, "dsr", &vips);
    let content: Vec<u8> = (0..2 << 20).map(|index: u32| (index % 251) as u8).collect();
    for vip in vips {
        let counts = count_by_name(REQUESTS, || {
            let answer = http_get(setup.client(), SocketAddr::new(vip, HTTP.port))?;
            let client: IpAddr =
                if vip.is_ipv4() { setup.client().ipv4().into() } else { setup.client().ipv6().into() };
            assert_eq!(answer.peer.ip(), client);
            Ok(answer)
        });
        let counts = counts.unwrap();
        assert!(NODES.iter().all(|&node| counts.contains_key(node)), "{vip}: {counts:?}");
        let stream = connect(setup.client(), SocketAddr::new(vip, ECHO.port)).unwrap();
        // Not assert_eq, which would print both.
        assert!(echo_all(stream, content.clone()).unwrap() == content, "through {vip}");
    }
    let metrics = setup.agent.get("/metrics").unwrap();
    let replies = metrics.lines().filter(|line| line.contains("direction=\"reply\""));
    let replies: Vec<&str> = replies.filter(|line| !line.ends_with(" 0")).collect();
    assert_eq!(replies, [""; 0], "replies that have passed the balancer");
}

/// Serves [`ECHO`] and [`HTTP`] of a Service in mode dsr on both nodes.
pub(in crate::scenarios) fn serve(setup: &Setup, name: &str, vips: &[IpAddr]) -> Vec<Server> {
    let all = NODES.iter().flat_map(|node| vips.iter().map(move |vip| (*node, *vip)));
    let servers = all.flat_map(|(node, vip)| {
        let host = setup.lab.host(node);
        take(host, vip);
        let http = Server::http(host, SocketAddr::new(vip, HTTP.port), node);
        [Server::echo(host, SocketAddr::new(vip, ECHO.port)), http]
    });
    let servers = servers.collect::<Result<_, _>>().unwrap();
    let ports = [ECHO, HTTP];
    let yaml = manifests::annotated_service(name, vips, &ports, "llb.dev/mode: dsr");
    setup.manifests.write(&format!("{name}.yaml"), &yaml).unwrap();
    for (vip, port) in vips.iter().flat_map(|vip| ports.map(|port| (*vip, port))) {
        setup.wait_serving(vip, port.port, port.protocol);
        let state = setup.agent.state().unwrap();
        let frontend = frontend(vip, port.port, port.protocol);
        let placement = &state["observed"]["frontends"][&frontend]["placement"];
        assert_eq!(placement["mode"], "dsr", "{frontend}: {placement}");
    }
    servers
}

/// Puts the VIP on `lo` of a node, which nobody announces. A stand-in for kube-proxy: a green test with it does
/// not prove that kube-proxy accepts the packets; tests/cluster does.
pub(crate) fn take(host: &Host, vip: IpAddr) {
    let silent = ["net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"];
    host.output(&["sysctl", "-q", "-w", silent[0], silent[1]]).unwrap();
    let (bits, nodad) = if vip.is_ipv4() { (32, "") } else { (128, "nodad") };
    host.ip(&format!("addr add {vip}/{bits} dev lo {nodad}\n")).unwrap();
}
