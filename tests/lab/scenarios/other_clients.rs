// SPDX-License-Identifier: Apache-2.0
//! Clients whose packets come in by no `--linkdevice`: programs on the balancer itself, and networks behind
//! its other links, as its Pods and containers are.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use llb_tests::client::{Download, connect, count_by_name, echo_on, http_get, udp_ask};
use llb_tests::manifests::PortSpec;
use llb_tests::steady::connect_all;
use llb_tests::{Host, Steady, manifests, wait_until};

use super::packets::dsr;
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup, frontend};

/// With two nodes, 40 random choices fall on one node in 1 of 2^39 runs.
const REQUESTS: usize = 40;
/// Connections of each client to each VIP.
const CONNECTIONS: usize = 5;
const ROUNDS: usize = 20;
const ECHO: PortSpec<'static> = PortSpec { name: "echo", port: 7, protocol: "TCP", node_port: 30007 };
const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };
const DNS: PortSpec<'static> = PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };

pub(crate) fn clients_on_the_balancer_and_behind_its_other_links_are_served(plane: Plane) {
    let mut setup = Setup::new(plane);
    let aside = add_host_aside(&mut setup);
    setup.serve_http(HTTP.node_port);
    setup.serve_udp(DNS.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[HTTP, DNS]);
    for vip in vips {
        for client in [setup.client(), setup.lab.balancer(), &aside] {
            let who = client.name();
            let web = SocketAddr::new(vip, HTTP.port);
            let counts = count_by_name(REQUESTS, || http_get(client, web)).unwrap();
            assert!(NODES.iter().all(|&node| counts.contains_key(node)), "{who} at {vip}: {counts:?}");
            let answer = udp_ask(client, SocketAddr::new(vip, DNS.port), "who is it").unwrap();
            assert_eq!(answer.content, "who is it", "{who} at {vip}");
        }
    }
    let (denied, open) = ("10.0.0.0/8", "192.0.2.0/24,2001:db8::/64");
    for (ranges, is_served) in [(denied, false), (open, true)] {
        let annotation = format!("service.beta.kubernetes.io/load-balancer-source-ranges: {ranges}");
        let yaml = manifests::annotated_service("web", &vips, &[HTTP, DNS], &annotation);
        setup.manifests.write("web.yaml", &yaml).unwrap();
        for vip in vips {
            let web = SocketAddr::new(vip, HTTP.port);
            wait_until(LIMIT, &format!("{vip} served for {ranges}: {is_served}"), || {
                Ok((http_get(setup.lab.balancer(), web).is_ok() == is_served).then_some(()))
            })
            .unwrap();
            assert!(http_get(&aside, web).is_err(), "{vip}: outside of {ranges}");
        }
    }
}

/// Otherwise a program that starts later would take the port from these clients.
pub(crate) fn no_other_program_binds_the_port_of_a_vip(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &[HTTP]);
    for address in [SocketAddr::new(setup.vip(), HTTP.port), SocketAddr::new(setup.vip_v6(), HTTP.port)] {
        let bound = setup.lab.balancer().run_inside(|| TcpListener::bind(address)).unwrap();
        assert_eq!(bound.map(drop).unwrap_err().kind(), io::ErrorKind::AddrInUse, "{address}");
        http_get(setup.client(), address).unwrap();
    }
}

pub(crate) fn their_connections_outlive_a_handover(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--after-handover", "wait"]);
    let aside = add_host_aside(&mut setup);
    setup.serve_echo(ECHO.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("echo", &vips, &[ECHO]);
    let addresses = vips.map(|vip| SocketAddr::new(vip, ECHO.port));
    let open = open_all(&setup, &aside, &addresses);
    let old = setup.succeed_agent();
    open.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    for address in addresses {
        setup.wait_on_plane(address.ip(), ECHO.port, ECHO.protocol, plane.name(ECHO.protocol));
        for client in [setup.lab.balancer(), &aside] {
            echo_on(&mut connect(client, address).unwrap(), b"new").unwrap();
        }
    }
    assert_eq!(open.stop().unwrap(), [""; 0]);
    drop(old);
}

pub(crate) fn they_are_told_apart_and_their_connections_stay_when_the_service_moves(plane: Plane) {
    let mut setup = Setup::new(plane);
    let aside = add_host_aside(&mut setup);
    setup.serve_echo(ECHO.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("echo", &vips, &[ECHO]);
    for vip in vips {
        let frontend = frontend(vip, ECHO.port, ECHO.protocol);
        let state = setup.agent.state().unwrap();
        let others = &state["observed"]["frontends"][&frontend]["other_clients"];
        assert_eq!(others, "relayed; backends see this machine's address", "{frontend}");
    }
    let addresses = vips.map(|vip| SocketAddr::new(vip, ECHO.port));
    let open = open_all(&setup, &aside, &addresses);
    // Least connections are for the relay. The servers see no difference.
    let relayed = manifests::annotated_service("echo", &vips, &[ECHO], "llb.dev/balance: least-connections");
    let plain = manifests::service("echo", &vips, &[ECHO]);
    let mut during = Vec::new();
    for (yaml, name) in
        [(&relayed, "userspace"), (&plain, "packet"), (&relayed, "userspace"), (&plain, "packet")]
    {
        setup.manifests.write("echo.yaml", yaml).unwrap();
        vips.iter().for_each(|vip| setup.wait_on_plane(*vip, ECHO.port, ECHO.protocol, name));
        open.wait_for_rounds(ROUNDS, LIMIT).unwrap();
        during.push(open_all(&setup, &aside, &addresses));
    }
    during.push(open);
    for steady in during {
        steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();
        assert_eq!(steady.stop().unwrap(), [""; 0]);
    }
}

/// Backends of mode dsr see the clients of packets, and the balancer as the client of what is relayed.
pub(crate) fn they_are_relayed_beside_mode_dsr(plane: Plane) {
    let mut setup = Setup::new(plane);
    let aside = add_host_aside(&mut setup);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve_http(HTTP.node_port);
    setup.serve_echo(ECHO.node_port);
    let _servers = dsr::serve(&setup, "dsr", &vips);
    for vip in vips {
        let balancer: IpAddr = match vip.is_ipv4() {
            true => setup.lab.balancer().ipv4().into(),
            false => setup.lab.balancer().ipv6().into(),
        };
        for client in [setup.lab.balancer(), &aside] {
            let answer = http_get(client, SocketAddr::new(vip, HTTP.port)).unwrap();
            assert_eq!(answer.peer.ip(), balancer, "{} at {vip}", client.name());
        }
    }
}

/// What programs forward goes on without an agent. What it relays beside them has its time to end.
pub(crate) fn their_downloads_finish_when_the_agent_ends(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--at-stop", "keep"]);
    let aside = add_host_aside(&mut setup);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let vip = SocketAddr::new(setup.vip(), HTTP.port);
    let download = Download::start(&aside, vip).unwrap();
    setup.agent.terminate().unwrap();
    wait_until(LIMIT, "no new connections beside the packet plane", || {
        Ok(connect(&aside, vip).is_err().then_some(()))
    })
    .unwrap();
    http_get(setup.client(), vip).unwrap();
    assert_eq!(setup.agent.process().exit_status().unwrap(), None, "{}", setup.agent.log());
    download.finish().unwrap();
    let status = setup.agent.wait_exit().unwrap();
    assert_eq!(status.code(), Some(0), "{}", setup.agent.log());
    http_get(setup.client(), vip).unwrap();
}

/// Steady connections from all kinds of client.
fn open_all(setup: &Setup, aside: &Host, addresses: &[SocketAddr]) -> Steady {
    let clients = [setup.client(), setup.lab.balancer(), aside];
    let open = |client, address: &SocketAddr| connect_all(client, *address, CONNECTIONS).unwrap();
    let all = clients.into_iter().flat_map(|client| addresses.iter().flat_map(move |one| open(client, one)));
    let steady = Steady::start(all.collect());
    steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    steady
}

/// Adds a host whose only neighbour is the balancer, by a link that is no `--linkdevice`.
pub(crate) fn add_host_aside(setup: &mut Setup) -> Host {
    let aside = setup.lab.add_host("aside").unwrap();
    aside.unplug().unwrap();
    aside.ip(&format!("addr flush dev {}\n", Host::LINK)).unwrap();
    setup
        .lab
        .balancer()
        .ip(&format!(
            "link add aside type veth peer name near netns {}\nlink set aside up\n\
             addr add 198.51.100.1/24 dev aside\naddr add 2001:db8:1::1/64 dev aside nodad\n",
            aside.namespace().display()
        ))
        .unwrap();
    aside
        .ip("link set near up\naddr add 198.51.100.2/24 dev near\naddr add 2001:db8:1::2/64 dev near nodad\n\
             route add default via 198.51.100.1\nroute add default via 2001:db8:1::1\n")
        .unwrap();
    aside
}
