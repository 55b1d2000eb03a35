// SPDX-License-Identifier: Apache-2.0
//! What the packet plane leaves to the kernel: it answers at once, as for any address of the host.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use llb_tests::client::{connect, http_get, ping};
use llb_tests::manifests::PortSpec;

use super::HTTP;
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, frontend};

const DNS: PortSpec<'static> = PortSpec { name: "dns", port: 53, protocol: "UDP", node_port: 30053 };

pub(crate) fn pings_and_closed_ports_are_answered_at_once(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("web", &vips, &[HTTP, DNS]);
    for vip in vips {
        ping(setup.client(), vip).unwrap();
        is_refused(&setup, vip, 81, 54);
        http_get(setup.client(), SocketAddr::new(vip, HTTP.port)).unwrap();
    }
}

/// On every plane: the kernel answers with a TCP reset or port unreachable, as kube-proxy does for a Service
/// without endpoints.
pub(crate) fn a_service_without_backends_is_published_and_refuses_at_once(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    let nodes = std::fs::read_to_string(setup.manifests.path().join("nodes.yaml")).unwrap();
    let vips = [setup.vip(), setup.vip_v6()];
    setup.manifests.write("nodes.yaml", "").unwrap();
    setup.serve("web", &vips, &[HTTP, DNS]);
    is_published(&setup, &vips);
    for vip in vips {
        has_backends(&setup, vip, false);
        is_refused(&setup, vip, HTTP.port, DNS.port);
    }

    setup.manifests.write("nodes.yaml", &nodes).unwrap();
    for vip in vips {
        has_backends(&setup, vip, true);
        http_get(setup.client(), SocketAddr::new(vip, HTTP.port)).unwrap();
    }

    setup.manifests.write("nodes.yaml", "").unwrap();
    for vip in vips {
        has_backends(&setup, vip, false);
        setup.wait_address(vip, true);
        is_refused(&setup, vip, HTTP.port, DNS.port);
    }
    is_published(&setup, &vips);
}

fn is_published(setup: &Setup, vips: &[IpAddr]) {
    let wanted: BTreeSet<String> = vips.iter().map(ToString::to_string).collect();
    setup
        .agent
        .wait_for_state(LIMIT, &format!("{wanted:?} to be published"), |state| {
            let published = state["observed"]["statuses"]["default/web"]["vips"].as_array();
            let published = published.into_iter().flatten().filter_map(|vip| vip["ip"].as_str());
            published.map(str::to_owned).collect::<BTreeSet<_>>() == wanted
        })
        .unwrap();
}

/// Waits until the frontends of the VIP have backends, or have none.
fn has_backends(setup: &Setup, vip: IpAddr, wanted: bool) {
    for port in [HTTP, DNS] {
        let frontend = frontend(vip, port.port, port.protocol);
        setup
            .agent
            .wait_for_state(LIMIT, &format!("{frontend} with backends: {wanted}"), |state| {
                let status = &state["observed"]["frontends"][&frontend];
                let has_some = status["rule"]["backends"].as_object().map(|backends| !backends.is_empty());
                has_some == Some(wanted) && status["phase"] == "serving"
            })
            .unwrap();
    }
}

fn is_refused(setup: &Setup, vip: IpAddr, tcp: u16, udp: u16) {
    let error = connect(setup.client(), SocketAddr::new(vip, tcp)).unwrap_err();
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused), "{error:#}");

    let local: IpAddr =
        if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = setup.client().run_inside(|| UdpSocket::bind((local, 0))).unwrap().unwrap();
    socket.connect((vip, udp)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{vip}:{udp}: {error}");
}
