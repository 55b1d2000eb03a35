// SPDX-License-Identifier: Apache-2.0
//! The shipped binary serves: on a host, and in the root of its image. It is built otherwise than the one that all other tests
//! run: with another C library, and optimized.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use llb_tests::client::http_get;
use llb_tests::manifests::{self, PortSpec};
use llb_tests::{Host, Lab, Manifests, Process, Server, agent, wait_until};

use crate::image::Image;

const HTTP: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

/// As in the tests of the lab.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts an agent with `command`, waits until it serves a Service, and ends it.
fn assert_serves(lab: &Lab, mut command: Command, state_dir: &str, more: &[&str]) {
    let host = lab.balancer();
    let node = lab.host("node-1");
    let _server = Server::http(node, node.at(HTTP.node_port), node.name()).unwrap();
    command.args(["--linkdevice", Host::LINK, "--at-stop", "remove", "--state-dir", state_dir]).args(more);
    let mut process: Process = host.spawn(command, "agent").unwrap();
    let vip = SocketAddr::new(lab.vip(0), HTTP.port);
    wait_until(LIMIT, "an answer", || http_get(lab.client(), vip).map(Some))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", process.log()));
    process.signal(rustix::process::Signal::TERM).unwrap();
    let status = process.wait_exit(LIMIT).unwrap();
    assert!(status.success(), "{status}\n{}", process.log());
    assert!(!lab.balancer().has_address(lab.vip(0)).unwrap(), "the VIP stays\n{}", process.log());
}

fn manifests(lab: &Lab) -> Manifests {
    let manifests = Manifests::new(lab.balancer(), "manifests").unwrap();
    manifests.write("nodes.yaml", &manifests::nodes(&[lab.host("node-1")])).unwrap();
    manifests.write("web.yaml", &manifests::service("web", &[lab.vip(0)], &[HTTP])).unwrap();
    manifests
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_shipped_binary_serves_by_packets_and_as_a_relay() {
    for datapath in ["tc", "userspace"] {
        let lab = Lab::new().unwrap();
        let manifests = manifests(&lab);
        let state_dir = lab.directory().join("state");
        let bpf_dir = lab.balancer().bpf_directory();
        let command = lab.balancer().command(agent::binary().unwrap());
        let folder = manifests.path().to_str().unwrap();
        let more = ["--manifests", folder, "--datapath", datapath, "--bpf-dir", bpf_dir.to_str().unwrap()];
        assert_serves(&lab, command, state_dir.to_str().unwrap(), &more);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_image_serves_without_any_other_file() {
    let lab = Lab::new().unwrap();
    let manifests = manifests(&lab);
    let image = Image::unpack();
    let command = image.command(lab.balancer(), &[(manifests.path(), "/manifests")]);
    let bpf_dir = lab.balancer().bpf_directory();
    let more = ["--manifests", "/manifests", "--datapath", "tc", "--bpf-dir", bpf_dir.to_str().unwrap()];
    assert_serves(&lab, command, "/var/lib/llb", &more);
}
