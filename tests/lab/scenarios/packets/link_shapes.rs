// SPDX-License-Identifier: Apache-2.0
//! Links that the packet plane can't use: those without an Ethernet header, and for IPv6 those without a
//! link-local address. What needs them is relayed, and it is said why.

use std::net::{IpAddr, SocketAddr};

use llb_tests::client::http_get;
use llb_tests::lab::connect_by_tunnel;
use llb_tests::{Host, Server, manifests, wait_until};

use super::HTTP;
use super::routers::{FAR as BEHIND_ROUTER, add_far_host};
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, frontend, is_free_of_problems};

/// The addresses of the host behind the tunnel, from networks for documentation (RFC 5737, RFC 3849).
const FAR: [&str; 2] = ["203.0.113.10", "2001:db8:2::10"];
/// VIPs in the subnets of the tunnel.
const ON_TUNNEL: [&str; 2] = ["203.0.113.100", "2001:db8:2::100"];
const TUNNEL: &str = "wg0";

pub(crate) fn what_needs_a_link_without_ethernet_header_is_relayed(plane: Plane) {
    let setup = Setup::with_preparation(plane, &["--linkdevice", TUNNEL], |lab| {
        add_tunnel(lab.balancer(), lab.host("node-2"));
    });
    let (near, far) = (setup.lab.host("node-1"), setup.lab.host("node-2"));
    let vips = [setup.vip(), setup.vip_v6()];
    let _servers = [near.at(HTTP.node_port), near.at_v6(HTTP.node_port)]
        .map(|address| Server::http(near, address, "near").unwrap());
    setup.manifests.write("nodes.yaml", &manifests::nodes(&[near])).unwrap();
    setup.serve("web", &vips, &[HTTP]);
    for vip in vips {
        for client in [setup.client(), far] {
            let answer = http_get(client, SocketAddr::new(vip, HTTP.port));
            assert_eq!(answer.unwrap().name, "near", "{} at {vip}", client.name());
        }
    }
    // VIPs on such a link: nobody there is asked for them, or hears of them.
    let on_tunnel = ON_TUNNEL.map(|vip| vip.parse::<IpAddr>().unwrap());
    setup.write_service("tunnel", &on_tunnel, &[HTTP]);
    for vip in on_tunnel {
        wait_until(LIMIT, &format!("{vip} to answer"), || {
            http_get(far, SocketAddr::new(vip, HTTP.port)).map(Some)
        })
        .unwrap();
    }
    let state = setup.agent.state().unwrap();
    assert!(is_free_of_problems(&state), "{state:#}");
    assert_eq!(state["planes"]["links_without_header"], serde_json::json!([TUNNEL]), "{}", state["planes"]);
    let far_addresses = FAR.map(|address| address.parse::<IpAddr>().unwrap());
    let _far_servers = far_addresses
        .map(|address| Server::http(far, SocketAddr::new(address, HTTP.node_port), "far").unwrap());
    setup.manifests.write("nodes.yaml", &manifests::node("far", &far_addresses)).unwrap();
    for vip in vips {
        is_relayed(&setup, vip, "has no Ethernet header");
        for client in [setup.client(), far] {
            let answer = http_get(client, SocketAddr::new(vip, HTTP.port));
            assert_eq!(answer.unwrap().name, "far", "{} at {vip}", client.name());
        }
    }
}

pub(crate) fn ipv6_is_relayed_on_a_link_without_a_link_local_address(plane: Plane) {
    let mut setup = Setup::with_preparation(plane, &[], |lab| {
        lab.balancer().output(&["ip", "-6", "addr", "flush", "dev", Host::LINK, "scope", "link"]).unwrap();
    });
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.write_service("web", &vips, &[HTTP]);
    setup.wait_serving(setup.vip_v6(), HTTP.port, HTTP.protocol);
    is_relayed(&setup, setup.vip_v6(), "no IPv6 link-local address");
    for vip in vips {
        for client in [setup.client(), setup.lab.balancer()] {
            wait_until(LIMIT, &format!("{vip} to answer"), || {
                http_get(client, SocketAddr::new(vip, HTTP.port)).map(Some)
            })
            .unwrap();
        }
    }

    // IPv4 by an IPv6 router needs the address, too: without it, not even the kernel finds that router.
    add_far_host(&mut setup);
    let router = setup.lab.host("router").ipv6();
    setup.lab.balancer().ip(&format!("route replace 198.51.100.0/24 via inet6 {router}\n")).unwrap();
    let address = BEHIND_ROUTER[0].parse::<IpAddr>().unwrap();
    setup.write_service("web", &vips[..1], &[HTTP]);
    setup.manifests.write("nodes.yaml", &manifests::node("far", &[address])).unwrap();
    is_relayed(&setup, vips[0], "no IPv6 link-local address");
}

/// Waits until the frontend is relayed for a reason with this text.
fn is_relayed(setup: &Setup, vip: IpAddr, why: &str) {
    let frontend = frontend(vip, HTTP.port, HTTP.protocol);
    setup
        .agent
        .wait_for_state(LIMIT, &format!("{frontend} to be relayed"), |state| {
            let status = &state["observed"]["frontends"][&frontend];
            let told = status["placement"]["why"].as_str().unwrap_or_default();
            status["placement"]["plane"] == "userspace" && told.contains(why) && status["phase"] == "serving"
        })
        .unwrap();
}

/// Takes `far` off the segment, and gives it a tunnel to the balancer as its only link.
fn add_tunnel(balancer: &Host, far: &Host) {
    far.unplug().unwrap();
    far.ip(&format!("addr flush dev {}\n", Host::LINK)).unwrap();
    connect_by_tunnel(balancer, far, TUNNEL).unwrap();
    balancer
        .ip(&format!(
            "addr add 203.0.113.1/24 dev {TUNNEL}\naddr add 2001:db8:2::1/64 dev {TUNNEL}\n\
             link set {TUNNEL} up\n"
        ))
        .unwrap();
    far.ip(&format!(
        "addr add {}/24 dev {TUNNEL}\naddr add {}/64 dev {TUNNEL}\nlink set {TUNNEL} up\n\
         route add 0.0.0.0/0 dev {TUNNEL}\nroute add ::/0 dev {TUNNEL}\n",
        FAR[0], FAR[1]
    ))
    .unwrap();
}
