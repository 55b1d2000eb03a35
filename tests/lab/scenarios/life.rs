// SPDX-License-Identifier: Apache-2.0
//! The life of an agent: crash, restart, orderly end.

use std::net::SocketAddr;

use llb_tests::client::{Download, connect, echo_on, http_get};
use llb_tests::manifests::PortSpec;
use llb_tests::wait_until;

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

pub(crate) fn an_agent_killed_and_restarted_adopts_its_addresses(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    let http = [PortSpec::tcp("http", 80, 30080)];
    let before = setup.lab.balancer().addresses().unwrap();
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &http);
    let with_vips = setup.lab.balancer().addresses().unwrap();

    setup.agent.process().kill9().unwrap();
    assert_eq!(setup.lab.balancer().addresses().unwrap(), with_vips);
    setup.restart_agent();
    for vip in [setup.vip(), setup.vip_v6()] {
        setup.wait_serving(vip, 80, "TCP");
        http_get(setup.client(), SocketAddr::new(vip, 80)).unwrap();
    }
    assert_eq!(setup.lab.balancer().addresses().unwrap(), with_vips);

    // The new agent treats the addresses as its own: it removes them with the Service.
    setup.manifests.remove("web.yaml").unwrap();
    setup.wait_address(setup.vip(), false);
    setup.wait_address(setup.vip_v6(), false);
    assert_eq!(setup.lab.balancer().addresses().unwrap(), before);
}

pub(crate) fn a_new_agent_applies_what_changed_while_none_ran(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    let http = [PortSpec::tcp("http", 80, 30080)];
    setup.serve("old", &[setup.vip()], &http);
    setup.agent.process().kill9().unwrap();
    setup.manifests.remove("old.yaml").unwrap();
    let new = setup.lab.vip(1);
    setup.write_service("new", &[new], &http);
    setup.restart_agent();
    setup.wait_serving(new, 80, "TCP");
    http_get(setup.client(), SocketAddr::new(new, 80)).unwrap();
    setup.wait_address(setup.vip(), false);
}

pub(crate) fn sigterm_drains_connections_and_removes_everything(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(30007);
    let before = setup.lab.balancer().addresses().unwrap();
    setup.serve("echo", &[setup.vip(), setup.vip_v6()], &[PortSpec::tcp("echo", 7, 30007)]);
    let vip = SocketAddr::new(setup.vip(), 7);
    let mut open = connect(setup.client(), vip).unwrap();
    echo_on(&mut open, b"before").unwrap();

    terminate(&mut setup, vip);
    echo_on(&mut open, b"after").unwrap();
    assert_eq!(setup.agent.process().exit_status().unwrap(), None, "{}", setup.agent.log());

    drop(open);
    let status = setup.agent.wait_exit().unwrap();
    assert_eq!(status.code(), Some(0), "{}", setup.agent.log());
    assert_eq!(setup.lab.balancer().addresses().unwrap(), before);
}

pub(crate) fn the_drain_after_sigterm_has_a_time_limit(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--drain-timeout", "1s"]);
    setup.serve_echo(30007);
    let before = setup.lab.balancer().addresses().unwrap();
    setup.serve("echo", &[setup.vip()], &[PortSpec::tcp("echo", 7, 30007)]);
    let mut open = connect(setup.client(), SocketAddr::new(setup.vip(), 7)).unwrap();
    echo_on(&mut open, b"before").unwrap();

    setup.agent.terminate().unwrap();
    let status = setup.agent.wait_exit().unwrap();
    assert_eq!(status.code(), Some(0), "{}", setup.agent.log());
    assert_eq!(setup.lab.balancer().addresses().unwrap(), before);
    assert!(echo_on(&mut open, b"after").is_err());
}

pub(crate) fn sigterm_lets_a_download_finish(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    setup.serve("web", &[setup.vip()], &[PortSpec::tcp("http", 80, 30080)]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let download = Download::start(setup.client(), vip).unwrap();

    terminate(&mut setup, vip);
    download.finish().unwrap();
    let status = setup.agent.wait_exit().unwrap();
    assert_eq!(status.code(), Some(0), "{}", setup.agent.log());
}

pub(crate) fn a_second_sigterm_ends_at_once(plane: Plane) {
    // Far longer than the test waits for the agent to end.
    let mut setup = Setup::with_arguments(plane, &["--drain-timeout", "1h"]);
    setup.serve_http(30080);
    let before = setup.lab.balancer().addresses().unwrap();
    setup.serve("web", &[setup.vip()], &[PortSpec::tcp("http", 80, 30080)]);
    let vip = SocketAddr::new(setup.vip(), 80);
    let download = Download::start(setup.client(), vip).unwrap();

    terminate(&mut setup, vip);
    assert_eq!(setup.agent.process().exit_status().unwrap(), None, "{}", setup.agent.log());
    setup.agent.terminate().unwrap();
    let status = setup.agent.wait_exit().unwrap();
    assert_eq!(status.code(), Some(0), "{}", setup.agent.log());
    assert_eq!(setup.lab.balancer().addresses().unwrap(), before);
    assert!(download.finish().is_err(), "cut");
}

/// Sends SIGTERM, then waits until `vip` refuses new connections.
fn terminate(setup: &mut Setup, vip: SocketAddr) {
    setup.agent.terminate().unwrap();
    wait_until(LIMIT, "new connections to be refused", || {
        Ok(connect(setup.client(), vip).is_err().then_some(()))
    })
    .unwrap();
}
