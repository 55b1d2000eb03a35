// SPDX-License-Identifier: Apache-2.0
//! Routes and source addresses of the machine that change while it serves.

use std::net::SocketAddr;

use llb_tests::client::{connect, echo_on, http_get};
use llb_tests::{Server, wait_until};

use super::restarts::serve_steadily;
use super::routers::{add_far_host, serve_from_afar};
use super::{ECHO, HTTP};
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// Connections to each VIP.
const CONNECTIONS: usize = 20;
const ROUNDS: usize = 20;

/// The backends are behind a router, to which a second link leads. No program is there.
pub(crate) fn a_route_that_moves_to_another_link_takes_the_service_with_it(plane: Plane) {
    let mut setup = Setup::new(plane);
    let far = add_far_host(&mut setup);
    let vips = [setup.vip(), setup.vip_v6()];
    let (router, balancer) = (setup.lab.host("router"), setup.lab.balancer());
    balancer
        .ip(&format!(
            "link add side type veth peer name side netns {}\nlink set side up\n\
             addr add 203.0.113.1/24 dev side\naddr add 2001:db8:2::1/64 dev side nodad\n",
            router.namespace().display()
        ))
        .unwrap();
    router
        .ip("link set side up\naddr add 203.0.113.2/24 dev side\naddr add 2001:db8:2::2/64 dev side nodad\n")
        .unwrap();
    let by = |v4: &str, v6: &str, link: &str| {
        let routes = format!(
            "route replace 198.51.100.0/24 via {v4} dev {link}\nroute replace 2001:db8:1::/64 via {v6} dev {link}\n"
        );
        setup.lab.balancer().ip(&routes).unwrap();
    };
    let by_side = || by("203.0.113.2", "2001:db8:2::2", "side");
    let by_segment = || by(&router.ipv4().to_string(), &router.ipv6().to_string(), "eth0");
    let is_served_by = |name: &str| {
        for vip in vips {
            setup.wait_on_plane(vip, HTTP.port, HTTP.protocol, name);
            wait_until(LIMIT, &format!("an answer through {name}"), || {
                http_get(setup.client(), SocketAddr::new(vip, HTTP.port)).map(Some)
            })
            .unwrap();
        }
    };

    let _servers = serve_from_afar(&setup, |address| {
        Server::http(&far, SocketAddr::new(address, HTTP.node_port), "far").unwrap()
    });
    setup.serve("web", &vips, &[HTTP]);
    is_served_by("packet");
    by_side();
    is_served_by("userspace");
    by_segment();
    is_served_by("packet");
    by_side();
    is_served_by("userspace");
}

/// The old address stays on the link. What the kernel would choose for its own new connections does not matter to
/// open ones.
pub(crate) fn a_new_preferred_source_breaks_no_connection(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--at-stop", "keep"]);
    let (addresses, steady) = serve_steadily(&mut setup, CONNECTIONS);
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();

    let (old, new) = (setup.lab.balancer().ipv6(), [setup.lab.vip(99), setup.lab.vip_v6(99)]);
    let prefer = format!(
        "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
         route replace 192.0.2.0/24 dev eth0 proto kernel scope link src {}\n\
         route replace 2001:db8::/64 dev eth0 proto kernel metric 256 src {}\n",
        new[0], new[1], new[0], new[1]
    );
    // The agent asks for all routes when the link has changed.
    setup.lab.balancer().ip(&format!("{prefer}link set eth0 mtu 1492\n")).unwrap();
    wait_until(LIMIT, "the agent to see the change", || {
        Ok(setup.agent.log().contains("the link has changed").then_some(()))
    })
    .unwrap();
    // Only with another MTU does a driver say whether it still takes XDP.
    if matches!(plane, Plane::XdpNative | Plane::XdpGeneric) {
        wait_until(LIMIT, "XDP to be tried again", || {
            let log = setup.agent.log();
            Ok(log
                .lines()
                .any(|line| line.contains("were tried again") && line.contains("\"mtu\":1492"))
                .then_some(()))
        })
        .unwrap();
    }
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();

    // Another agent finds out the routes itself; only the maps tell it what backends see.
    setup.agent.process().kill9().unwrap();
    setup.restart_agent();
    for vip in addresses {
        setup.wait_on_plane(vip.ip(), ECHO.port, ECHO.protocol, "packet");
    }
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    assert_eq!(steady.stop().unwrap(), [""; 0]);

    // Without the old address, the new one must do.
    setup.lab.balancer().ip(&format!("addr del {old}/64 dev eth0\n")).unwrap();
    wait_until(LIMIT, "an answer to the new source", || {
        let mut stream = connect(setup.client(), addresses[1])?;
        echo_on(&mut stream, b"new").map(Some)
    })
    .unwrap();
    setup.agent.terminate().unwrap();
    assert!(setup.agent.wait_exit().unwrap().success(), "{}", setup.agent.log());
}
