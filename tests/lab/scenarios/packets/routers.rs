// SPDX-License-Identifier: Apache-2.0
//! Clients and backends that are not simply hosts on the segment.

use std::net::{IpAddr, SocketAddr};

use llb_tests::client::{connect, count_by_name, echo_all, http_get};
use llb_tests::{Host, Server, manifests};

use super::{ECHO, HTTP};
use crate::plane::Plane;
use crate::setup::{NODES, Setup};

/// With two nodes, 40 random choices fall on one node in 1 of 2^39 runs.
const REQUESTS: usize = 40;
/// Addresses behind the router, from networks for documentation (RFC 5737, RFC 3849).
pub(super) const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];
/// MTU of the link behind the router.
const NARROW: u32 = 1300;

pub(crate) fn a_backend_can_be_a_client_of_its_own_service(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[HTTP]);
    for vip in vips {
        let vip = SocketAddr::new(vip, HTTP.port);
        let counts = count_by_name(REQUESTS, || http_get(setup.lab.host("node-1"), vip)).unwrap();
        assert!(NODES.iter().all(|&node| counts.contains_key(node)), "{vip}: {counts:?}");
    }
}

pub(crate) fn clients_and_backends_may_be_behind_a_router(plane: Plane) {
    let mut setup = Setup::new(plane);
    let far = add_far_host(&mut setup);
    setup.serve_http(HTTP.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[HTTP]);
    for vip in vips {
        let counts = count_by_name(REQUESTS, || http_get(&far, SocketAddr::new(vip, HTTP.port))).unwrap();
        assert!(NODES.iter().all(|&node| counts.contains_key(node)), "{vip}: {counts:?}");
    }

    let _servers = serve_from_afar(&setup, |address| {
        Server::http(&far, SocketAddr::new(address, HTTP.node_port), "far").unwrap()
    });
    for vip in vips {
        for client in [setup.client(), &far] {
            let answer = llb_tests::wait_until(crate::setup::LIMIT, "an answer from afar", || {
                Ok(Some(http_get(client, SocketAddr::new(vip, HTTP.port))?).filter(|one| one.name == "far"))
            });
            answer.unwrap();
        }
    }
}

/// Only a router on the way to the backend knows that the next link has a small MTU. Its ICMP error must reach
/// the client, as an error about the client's own packets.
pub(crate) fn an_upload_finds_the_mtu_behind_a_router(plane: Plane) {
    let mut setup = Setup::new(plane);
    let far = add_far_host(&mut setup);
    setup.lab.host("router").ip(&format!("link set far mtu {NARROW}\n")).unwrap();
    // Its own packets are short, but its MSS does not say so: clients begin with long packets.
    far.ip(&format!("route replace default via 198.51.100.1 mtu {NARROW} advmss 1460\n")).unwrap();
    far.ip(&format!("-6 route replace default via 2001:db8:1::1 mtu {NARROW} advmss 1440\n")).unwrap_or_else(
        |_| {
            let mtu = NARROW.to_string();
            let route = ["ip", "-6", "route", "replace", "default", "via", "2001:db8:1::1", "mtu", &mtu];
            far.output(&[&route[..], &["advmss", "1440"]].concat()).map(drop).unwrap();
        },
    );
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("echo", &vips, &[ECHO]);
    let _servers = serve_from_afar(&setup, |address| {
        Server::echo(&far, SocketAddr::new(address, ECHO.node_port)).unwrap()
    });
    let content: Vec<u8> = (0..4 << 20).map(|index: u32| (index % 251) as u8).collect();
    for vip in vips {
        let stream = llb_tests::wait_until(crate::setup::LIMIT, "a connection", || {
            connect(setup.client(), SocketAddr::new(vip, ECHO.port)).map(Some)
        });
        // Not assert_eq, which would print both.
        assert!(echo_all(stream.unwrap(), content.clone()).unwrap() == content, "through {vip}");
        let route = setup.client().output(&["ip", "route", "get", &vip.to_string()]).unwrap();
        assert!(route.contains(&format!("mtu {NARROW}")), "not learned by the client: {route}");
    }
}

/// Adds the host `far`, whose only neighbour is the host `router`, which is on the segment.
pub(super) fn add_far_host(setup: &mut Setup) -> Host {
    let router = setup.lab.add_host("router").unwrap();
    let far = setup.lab.add_host("far").unwrap();
    far.unplug().unwrap();
    far.ip(&format!("addr flush dev {}\n", Host::LINK)).unwrap();
    router
        .ip(&format!(
            "link add far type veth peer name near netns {}\nlink set far up\n\
             addr add 198.51.100.1/24 dev far\naddr add 2001:db8:1::1/64 dev far nodad\n",
            far.namespace().display()
        ))
        .unwrap();
    far.ip("link set near up\naddr add 198.51.100.2/24 dev near\naddr add 2001:db8:1::2/64 dev near nodad\n\
         route add default via 198.51.100.1\nroute add default via 2001:db8:1::1\n")
        .unwrap();
    // It computes its checksums itself: no network card on the way would.
    far.output(&["ethtool", "-K", "near", "tx", "off"]).unwrap();
    router
        .output(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        .unwrap();
    let (v4, v6) = (router.ipv4(), router.ipv6());
    let ways = format!("route add 198.51.100.0/24 via {v4}\nroute add 2001:db8:1::/64 via {v6}\n");
    setup.lab.balancer().ip(&ways).unwrap();
    far
}

/// Makes the far host the only Node, and starts what `start` starts on each of its addresses.
pub(super) fn serve_from_afar(setup: &Setup, start: impl Fn(IpAddr) -> Server) -> Vec<Server> {
    let servers = FAR.map(|address| start(address.parse().unwrap()));
    let node = manifests::node("far", &FAR.map(|address| address.parse().unwrap()));
    setup.manifests.write("nodes.yaml", &node).unwrap();
    servers.into()
}
