// SPDX-License-Identifier: Apache-2.0
//! Traffic through VIPs while nothing changes and nothing fails.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use llb_tests::client::{connect, count_by_name, echo_all, http_get, udp_ask, udp_ask_on};
use llb_tests::manifests::{PortSpec, annotated_service};
use rustix::net::{SendFlags, send};

use crate::plane::Plane;
use crate::setup::{NODES, Setup, is_free_of_problems};

/// With two nodes, 40 random choices fall on one node in 1 of 2^39 runs.
const REQUESTS: usize = 40;

pub(crate) fn http_reaches_both_nodes_over_ipv4_and_ipv6(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &[PortSpec::tcp("http", 80, 30080)]);
    for vip in [setup.vip(), setup.vip_v6()] {
        let vip = SocketAddr::new(vip, 80);
        let counts = count_by_name(REQUESTS, || http_get(setup.client(), vip)).unwrap();
        assert!(NODES.iter().all(|&node| counts.contains_key(node)), "{vip}: {counts:?}");
    }
    let state = setup.agent.state().unwrap();
    assert!(is_free_of_problems(&state), "{state:#}");
}

pub(crate) fn udp_reaches_both_nodes_and_a_flow_stays_with_one(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_udp(30053);
    setup.serve("dns", &[setup.vip(), setup.vip_v6()], &[PortSpec::udp("dns", 53, 30053)]);
    for (vip, local) in [(setup.vip(), "0.0.0.0:0"), (setup.vip_v6(), "[::]:0")] {
        let vip = SocketAddr::new(vip, 53);
        let counts = count_by_name(REQUESTS, || {
            let answer = udp_ask(setup.client(), vip, "who is it")?;
            assert_eq!(answer.content, "who is it");
            Ok(answer)
        })
        .unwrap();
        assert!(NODES.iter().all(|&node| counts.contains_key(node)), "{vip}: {counts:?}");

        let socket = setup.client().run_inside(|| UdpSocket::bind(local)).unwrap().unwrap();
        socket.connect(vip).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let counts = count_by_name(20, || udp_ask_on(&socket, "again")).unwrap();
        assert_eq!(counts.len(), 1, "one flow, several nodes: {counts:?}");
    }
}

pub(crate) fn tcp_and_udp_share_a_port_in_one_service(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30053);
    setup.serve_udp(30053);
    let ports = [PortSpec::tcp("dns-tcp", 53, 30053), PortSpec::udp("dns", 53, 30053)];
    setup.serve("dns", &[setup.vip()], &ports);
    let vip = SocketAddr::new(setup.vip(), 53);
    assert_eq!(udp_ask(setup.client(), vip, "over UDP").unwrap().content, "over UDP");
    http_get(setup.client(), vip).unwrap();
}

pub(crate) fn each_port_leads_to_its_own_node_port(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve_echo(30007);
    let ports = [
        PortSpec::tcp("http", 80, 30080),
        PortSpec::tcp("alternative", 8080, 30080),
        PortSpec::tcp("echo", 7, 30007),
    ];
    setup.serve("several", &[setup.vip()], &ports);
    for port in [80, 8080] {
        http_get(setup.client(), SocketAddr::new(setup.vip(), port)).unwrap();
    }
    let echo = connect(setup.client(), SocketAddr::new(setup.vip(), 7)).unwrap();
    assert_eq!(echo_all(echo, b"hello".to_vec()).unwrap(), b"hello");
    // A port of the VIP that belongs to no Service is closed.
    assert!(connect(setup.client(), SocketAddr::new(setup.vip(), 81)).is_err());
}

pub(crate) fn two_services_share_a_vip(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve_udp(30053);
    let write = |name: &str, port: PortSpec<'_>, key: &str| {
        let yaml = annotated_service(name, &[setup.vip()], &[port], &format!("llb.dev/sharing-key: {key}"));
        setup.manifests.write(&format!("{name}.yaml"), &yaml).unwrap();
    };
    write("web", PortSpec::tcp("http", 80, 30080), "one");
    setup.wait_serving(setup.vip(), 80, "TCP");
    write("dns", PortSpec::udp("dns", 53, 30053), "another");
    setup.agent.wait_for_problem(crate::setup::LIMIT, "VipNotShared").unwrap();
    write("dns", PortSpec::udp("dns", 53, 30053), "one");
    setup.wait_serving(setup.vip(), 53, "UDP");
    let (web, dns) = (SocketAddr::new(setup.vip(), 80), SocketAddr::new(setup.vip(), 53));
    http_get(setup.client(), web).unwrap();
    udp_ask(setup.client(), dns, "both").unwrap();

    // The address stays as long as one Service needs it.
    setup.manifests.remove("web.yaml").unwrap();
    setup
        .agent
        .wait_for_state(crate::setup::LIMIT, "the first to be gone", |state| {
            state["observed"]["frontends"][web.to_string() + "/TCP"].is_null()
        })
        .unwrap();
    udp_ask(setup.client(), dns, "one").unwrap();
    setup.wait_address(setup.vip(), true);
    setup.manifests.remove("dns.yaml").unwrap();
    setup.wait_address(setup.vip(), false);
}

pub(crate) fn ten_mebibytes_are_echoed_after_a_half_close(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(30007);
    setup.serve("echo", &[setup.vip(), setup.vip_v6()], &[PortSpec::tcp("echo", 7, 30007)]);
    let content: Vec<u8> = (0..10 << 20).map(|index: u32| (index % 251) as u8).collect();
    for vip in [setup.vip(), setup.vip_v6()] {
        let stream = connect(setup.client(), SocketAddr::new(vip, 7)).unwrap();
        // Not assert_eq, which would print both.
        assert!(echo_all(stream, content.clone()).unwrap() == content, "through {vip}");
    }
}

/// Messages before the urgent byte: enough for each way to move bytes to be in use.
const BEFORE: usize = 20;

pub(crate) fn an_urgent_byte_arrives_in_order(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(30007);
    setup.serve("echo", &[setup.vip()], &[PortSpec::tcp("echo", 7, 30007)]);
    let mut stream = connect(setup.client(), SocketAddr::new(setup.vip(), 7)).unwrap();
    let expect = |stream: &mut TcpStream, content: &[u8]| {
        let mut answer = vec![0; content.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(content));
    };
    for _ in 0..BEFORE {
        stream.write_all(b"plain").unwrap();
        expect(&mut stream, b"plain");
    }
    send(&stream, b"!", SendFlags::OOB).unwrap();
    stream.write_all(b"later").unwrap();
    expect(&mut stream, b"!later");
}
