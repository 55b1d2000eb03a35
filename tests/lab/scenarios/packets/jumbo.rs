// SPDX-License-Identifier: Apache-2.0
//! Frames that are larger than a page, on links whose MTU is raised while the programs run.

use std::net::SocketAddr;
use std::process::Command;

use llb_tests::client::{connect, echo_all, echo_on};
use llb_tests::{Host, wait_until};

use super::ECHO;
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

const MTU: &str = "9000";
/// Many frames of the largest size in both directions.
const BYTES: u32 = 4 << 20;

pub(crate) fn jumbo_frames_are_forwarded_when_the_mtu_is_raised(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_echo(ECHO.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("echo", &vips, &[ECHO]);
    let addresses = vips.map(|vip| SocketAddr::new(vip, ECHO.port));
    let mut old = addresses.map(|vip| connect(setup.client(), vip).unwrap());
    for stream in &mut old {
        echo_on(stream, b"at the old MTU").unwrap();
    }
    for host in setup.lab.hosts() {
        let port = ["link", "set", host.name(), "mtu", MTU];
        let status = setup.lab.inside_segment(|| Command::new("ip").args(port).status()).unwrap().unwrap();
        assert!(status.success(), "ip {}: {status}", port.join(" "));
        host.ip(&format!("link set {} mtu {MTU}\n", Host::LINK)).unwrap();
    }
    let mtu = format!("\"mtu\":{MTU}");
    wait_until(LIMIT, "the agent to see the MTU", || {
        let log = setup.agent.log();
        Ok(log.lines().any(|line| line.contains("the link has changed") && line.contains(&mtu)).then_some(()))
    })
    .unwrap();
    let content: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
    for vip in addresses {
        let stream = connect(setup.client(), vip).unwrap();
        // Not assert_eq, which would print both.
        assert!(echo_all(stream, content.clone()).unwrap() == content, "through {vip}");
    }
    for stream in &mut old {
        echo_on(stream, b"at the new MTU").unwrap();
    }
}
