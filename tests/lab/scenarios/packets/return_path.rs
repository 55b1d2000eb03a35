// SPDX-License-Identifier: Apache-2.0
//! Replies to a client that go by another router than its packets come by.

use std::net::SocketAddr;

use llb_tests::client::{connect, echo_on, http_get};
use llb_tests::{Host, wait_until};

use super::routers::{FAR, add_far_host};
use super::{ECHO, HTTP};
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// The client's packets come by one router. The balancer's route to the client leads by another one. Of the two routers,
/// only the one that replies must take lets packets to the client pass.
pub(crate) fn replies_take_the_route_if_that_is_chosen(plane: Plane) {
    const REASON: &str = "RoutesNotTold";
    let mut setup = Setup::with_arguments(plane, &["--at-stop", "keep"]);
    let far = add_far_host(&mut setup);
    let second = add_second_router(&mut setup, &far);
    let routers = [setup.lab.host("router").clone(), second];
    setup.serve_http(HTTP.node_port);
    setup.serve_echo(ECHO.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[HTTP, ECHO]);
    let lead_by = |setup: &Setup, router: &Host| {
        let (v4, v6) = (router.ipv4(), router.ipv6());
        let routes =
            format!("route replace 198.51.100.0/24 via {v4}\nroute replace 2001:db8:1::/64 via {v6}\n");
        setup.lab.balancer().ip(&routes).unwrap();
    };
    let ask = |vip| {
        wait_until(LIMIT, "an answer by the open router", || {
            http_get(&far, SocketAddr::new(vip, HTTP.port)).map(Some)
        })
        .unwrap();
    };

    lead_by(&setup, &routers[1]);
    let only_by_first =
        || [(&routers[0], true), (&routers[1], false)].map(|(router, opens)| open(router, opens));
    let only_by_second =
        || [(&routers[0], false), (&routers[1], true)].map(|(router, opens)| open(router, opens));
    only_by_first();
    vips.into_iter().for_each(ask);
    only_by_second();
    for vip in vips {
        http_get(&far, SocketAddr::new(vip, HTTP.port)).unwrap_err();
    }

    setup.agent.process().kill9().unwrap();
    setup.set_argument("--return-path", "routes");
    // Nobody but the agent makes the kernel look for the routers.
    setup.lab.balancer().ip("neigh flush dev eth0\n").unwrap();
    setup.restart_agent();
    let problem = setup.agent.wait_for_problem(LIMIT, REASON).unwrap();
    assert!(problem.contains("conf.lo.forwarding"), "{problem}");
    for family in ["net.ipv4", "net.ipv6"] {
        let on = format!("{family}.conf.lo.forwarding=1");
        setup.lab.balancer().output(&["sysctl", "-q", "-w", &on]).unwrap();
    }
    vips.into_iter().for_each(ask);
    let state = setup.agent.state().unwrap();
    assert!(llb_tests::agent::problem(&state, REASON).is_none(), "{state}");

    // Open connections follow a route that moves.
    let mut open_ones = vips.map(|vip| connect(&far, SocketAddr::new(vip, ECHO.port)).unwrap());
    for stream in &mut open_ones {
        echo_on(stream, b"by the second router").unwrap();
    }
    only_by_first();
    lead_by(&setup, &routers[0]);
    for stream in &mut open_ones {
        // The backend repeats its answer later and later, until the agent and the program have followed the route.
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        echo_on(stream, b"by the first router").unwrap();
    }
}

/// Adds the host `router-2`, which has a link of its own to the far host.
fn add_second_router(setup: &mut Setup, far: &Host) -> Host {
    let router = setup.lab.add_host("router-2").unwrap();
    router
        .ip(&format!(
            "link add far type veth peer name near2 netns {}\nlink set far up\n\
             addr add 203.0.113.1/24 dev far\naddr add 2001:db8:2::1/64 dev far nodad\n",
            far.namespace().display()
        ))
        .unwrap();
    far.ip(
        "link set near2 up\naddr add 203.0.113.2/24 dev near2\naddr add 2001:db8:2::2/64 dev near2 nodad\n",
    )
    .unwrap();
    far.output(&["ethtool", "-K", "near2", "tx", "off"]).unwrap();
    far.output(&["sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.near2.rp_filter=0"])
        .unwrap();
    router
        .output(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        .unwrap();
    router
        .ip("route add 198.51.100.0/24 via 203.0.113.2\nroute add 2001:db8:1::/64 via 2001:db8:2::2\n")
        .unwrap();
    router
}

/// Lets packets to the far host pass at this router, or drops them.
fn open(router: &Host, opens: bool) {
    let [v4, v6] = FAR;
    let word = if opens { "del" } else { "replace" };
    let commands = format!("route {word} blackhole {v4}/32\nroute {word} blackhole {v6}/128\n");
    match router.ip(&commands) {
        Err(error) if !opens => panic!("{error:#}"),
        // There was none.
        _ => {}
    }
}
