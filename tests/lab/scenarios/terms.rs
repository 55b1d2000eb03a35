// SPDX-License-Identifier: Apache-2.0
//! What a Service can ask for its traffic: source ranges, affinity, the PROXY protocol.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use llb_tests::client::{connect, echo_all, echo_on, http_get, udp_ask};
use llb_tests::manifests::{self, PortSpec};
use llb_tests::wait_until;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, is_free_of_problems};

/// Writes `web.yaml`: the Service, with one more field in its `spec`.
fn write(setup: &Setup, ports: &[PortSpec<'_>], field: &str) {
    let yaml = manifests::service("web", &[setup.vip(), setup.vip_v6()], ports);
    setup.manifests.write("web.yaml", &format!("{yaml}  {field}\n")).unwrap();
}

pub(crate) fn source_ranges_change_while_traffic_flows(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve_echo(30007);
    setup.serve_udp(30053);
    let ports =
        [PortSpec::tcp("http", 80, 30080), PortSpec::tcp("echo", 7, 30007), PortSpec::udp("dns", 53, 30053)];
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &ports);
    let mut open = vips.map(|vip| connect(setup.client(), SocketAddr::new(vip, 7)).unwrap());
    for stream in &mut open {
        echo_on(stream, b"before").unwrap();
    }

    // The client's own addresses: one family, then the other, then neither.
    let own = [setup.client().ipv4().to_string() + "/32", setup.client().ipv6().to_string() + "/128"];
    for admitted in [&[0_usize][..], &[1], &[], &[0, 1]] {
        let list: BTreeSet<&str> =
            admitted.iter().map(|&family| own[family].as_str()).chain(["198.51.100.0/28"]).collect();
        let list: Vec<String> = list.into_iter().map(|range| format!("{range:?}")).collect();
        write(&setup, &ports, &format!("loadBalancerSourceRanges: [{}]", list.join(", ")));
        for (family, &vip) in vips.iter().enumerate() {
            let expected = admitted.contains(&family);
            wait_until(LIMIT, &format!("{vip} to admit the client: {expected}"), || {
                let answer = http_get(setup.client(), SocketAddr::new(vip, 80));
                Ok((answer.is_ok() == expected).then_some(()))
            })
            .unwrap();
        }
    }
    // Connections from before stay open.
    for stream in &mut open {
        echo_on(stream, b"after").unwrap();
    }

    write(&setup, &ports, "loadBalancerSourceRanges: [everybody]");
    for vip in vips {
        wait_until(LIMIT, "an invalid range to admit nobody", || {
            Ok(http_get(setup.client(), SocketAddr::new(vip, 80)).is_err().then_some(()))
        })
        .unwrap();
        udp_ask(setup.client(), SocketAddr::new(vip, 53), "q").expect_err("UDP is closed as well");
    }
}

pub(crate) fn affinity_covers_all_ports_and_ends_when_it_is_removed(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve_http(30081);
    setup.serve_udp(30053);
    let ports =
        [PortSpec::tcp("a", 80, 30080), PortSpec::tcp("b", 81, 30081), PortSpec::udp("dns", 53, 30053)];
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &ports);
    let nodes_of = |vip: IpAddr| -> BTreeSet<String> {
        let http = (0..8).map(|n| http_get(setup.client(), SocketAddr::new(vip, 80 + n % 2)).unwrap().name);
        let udp =
            (0..4).map(|n| udp_ask(setup.client(), SocketAddr::new(vip, 53), &n.to_string()).unwrap().name);
        http.chain(udp).collect()
    };
    for vip in [setup.vip(), setup.vip_v6()] {
        assert_eq!(nodes_of(vip).len(), 2);
    }

    write(&setup, &ports, "sessionAffinity: ClientIP");
    let state = setup.agent.wait_for_state(LIMIT, "affinity everywhere", |state| {
        let frontends = state["observed"]["frontends"].as_object();
        frontends.is_some_and(|all| {
            all.len() == 6 && all.values().all(|one| !one["rule"]["terms"]["affinity_timeout"].is_null())
        })
    });
    // kube-proxy would send all of it to one Pod; the problem says so.
    let state = state.unwrap();
    assert!(state["problems"].to_string().contains("AffinityAtNodes"), "{state:#}");
    for vip in [setup.vip(), setup.vip_v6()] {
        let nodes = nodes_of(vip);
        assert_eq!(nodes.len(), 1, "{nodes:?}");
    }

    write(&setup, &ports, "sessionAffinity: None");
    let state = setup.agent.wait_for_state(LIMIT, "no affinity", |state| {
        is_free_of_problems(state)
            && state["observed"]["frontends"]
                .as_object()
                .is_some_and(|all| all.values().all(|one| one["rule"]["terms"]["affinity_timeout"].is_null()))
    });
    state.unwrap();
    for vip in [setup.vip(), setup.vip_v6()] {
        assert_eq!(nodes_of(vip).len(), 2);
    }
}

pub(crate) fn the_proxy_protocol_tells_a_backend_the_client(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(30007);
    let ports = [PortSpec::tcp("echo", 7, 30007)];
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &ports);
    for version in ["v1", "v2"] {
        let annotated = manifests::service("web", &vips, &ports)
            .replace("  annotations:\n", &format!("  annotations:\n    llb.dev/proxy-protocol: {version}\n"));
        setup.manifests.write("web.yaml", &annotated).unwrap();
        for vip in vips {
            let answer = wait_until(LIMIT, &format!("a header of {version}"), || {
                let stream = connect(setup.client(), SocketAddr::new(vip, 7))?;
                let port = stream.local_addr()?.port();
                // The server echoes all it gets, so the header comes back too.
                let heard = echo_all(stream, b"hello".to_vec())?;
                let is_of_version = heard.starts_with(if version == "v1" { b"PROXY" } else { b"\r\n\r\n\0" });
                Ok(is_of_version.then_some((heard, port)))
            });
            let (heard, port) = answer.unwrap();
            assert_eq!(heard, [header(&setup, version, vip, port), b"hello".to_vec()].concat());
        }
    }
}

/// The expected header, built here independently of the agent's code.
fn header(setup: &Setup, version: &str, vip: IpAddr, port: u16) -> Vec<u8> {
    let (v4, v6) = (setup.client().ipv4(), setup.client().ipv6());
    match (version, vip) {
        ("v1", IpAddr::V4(vip)) => format!("PROXY TCP4 {v4} {vip} {port} 7\r\n").into_bytes(),
        ("v1", IpAddr::V6(vip)) => format!("PROXY TCP6 {v6} {vip} {port} 7\r\n").into_bytes(),
        (_, vip) => {
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
            match vip {
                IpAddr::V4(vip) => {
                    header.extend([0x11, 0, 12]);
                    header.extend(v4.octets());
                    header.extend(vip.octets());
                }
                IpAddr::V6(vip) => {
                    header.extend([0x21, 0, 36]);
                    header.extend(v6.octets());
                    header.extend(vip.octets());
                }
            }
            header.extend(port.to_be_bytes());
            header.extend(7_u16.to_be_bytes());
            header
        }
    }
}
