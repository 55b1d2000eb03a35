// SPDX-License-Identifier: Apache-2.0
//! Services that are changed or deleted while traffic flows.

use std::io;
use std::net::SocketAddr;

use llb_tests::client::{connect, echo_on, http_get};
use llb_tests::manifests::PortSpec;
use llb_tests::wait_until;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, is_free_of_problems};

pub(crate) fn a_deleted_service_removes_its_address(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    let before = setup.lab.balancer().addresses().unwrap();
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &[PortSpec::tcp("http", 80, 30080)]);
    http_get(setup.client(), SocketAddr::new(setup.vip(), 80)).unwrap();

    setup.manifests.remove("web.yaml").unwrap();
    setup.wait_address(setup.vip(), false);
    setup.wait_address(setup.vip_v6(), false);
    assert_eq!(setup.lab.balancer().addresses().unwrap(), before);
    let state = setup
        .agent
        .wait_for_state(LIMIT, "an empty observed state", |state| {
            state["observed"]["frontends"].as_object().is_some_and(serde_json::Map::is_empty)
                && state["observed"]["addresses"].as_object().is_some_and(serde_json::Map::is_empty)
        })
        .unwrap();
    assert!(is_free_of_problems(&state), "{state:#}");
}

pub(crate) fn a_changed_port_leaves_connections_of_other_ports_alone(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve_echo(30007);
    let echo = PortSpec::tcp("echo", 7, 30007);
    setup.serve("web", &[setup.vip()], &[echo, PortSpec::tcp("http", 80, 30080)]);
    let (old, new) = (SocketAddr::new(setup.vip(), 80), SocketAddr::new(setup.vip(), 8080));
    http_get(setup.client(), old).unwrap();
    let mut open = connect(setup.client(), SocketAddr::new(setup.vip(), 7)).unwrap();
    echo_on(&mut open, b"before").unwrap();

    setup.serve("web", &[setup.vip()], &[echo, PortSpec::tcp("http", 8080, 30080)]);
    http_get(setup.client(), new).unwrap();
    wait_until(LIMIT, "the old port to be closed", || {
        Ok(connect(setup.client(), old).is_err_and(|error| is_refused(&error)).then_some(()))
    })
    .unwrap();
    echo_on(&mut open, b"after").unwrap();
}

pub(crate) fn a_foreign_address_is_served_and_never_touched(plane: Plane) {
    // Their prefix lengths are not those that llb would choose.
    let mut setup = Setup::with_preparation(plane, &[], |lab| {
        let commands =
            format!("addr add {}/28 dev eth0\naddr add {}/120 dev eth0 nodad\n", lab.vip(0), lab.vip_v6(0));
        lab.balancer().ip(&commands).unwrap();
    });
    setup.serve_http(30080);
    let before = setup.lab.balancer().addresses().unwrap();
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &[PortSpec::tcp("http", 80, 30080)]);
    for vip in [setup.vip(), setup.vip_v6()] {
        http_get(setup.client(), SocketAddr::new(vip, 80)).unwrap();
    }
    assert_eq!(setup.lab.balancer().addresses().unwrap(), before);

    setup.manifests.remove("web.yaml").unwrap();
    setup
        .agent
        .wait_for_state(LIMIT, "the frontends to be gone", |state| {
            state["observed"]["frontends"].as_object().is_some_and(serde_json::Map::is_empty)
        })
        .unwrap();
    assert_eq!(setup.lab.balancer().addresses().unwrap(), before);
    setup.agent.terminate().unwrap();
    assert!(setup.agent.wait_exit().unwrap().success(), "{}", setup.agent.log());
    assert_eq!(setup.lab.balancer().addresses().unwrap(), before);
}

pub(crate) fn a_vip_moves_to_another_address(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    let http = [PortSpec::tcp("http", 80, 30080)];
    setup.serve("web", &[setup.vip()], &http);
    let other = setup.lab.vip(1);
    setup.serve("web", &[other], &http);
    http_get(setup.client(), SocketAddr::new(other, 80)).unwrap();
    setup.wait_address(setup.vip(), false);
}

fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
