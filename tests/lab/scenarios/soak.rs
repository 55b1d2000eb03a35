//! Thousands of connections of every kind, and what they leave behind.

use std::fs;
use std::net::SocketAddr;

use llb_tests::manifests::PortSpec;
use llb_tests::soak::{self, Backends};
use llb_tests::wait_until;

use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, Setup};

/// `cargo xtask soak` runs more.
const CONNECTIONS: u64 = 3_000;

pub(crate) fn a_soak_loses_no_byte_and_leaves_no_descriptor(plane: Plane) {
    let mut setup = Setup::new(plane);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let nodes = NODES.map(|node| setup.lab.host(node));
    let places: Vec<_> =
        nodes.iter().flat_map(|host| [(*host, host.at(30007)), (*host, host.at_v6(30007))]).collect();
    let backends = Backends::start(&places, seed).unwrap();
    setup.serve("soak", &[setup.vip(), setup.vip_v6()], &[PortSpec::tcp("soak", 7, 30007)]);
    let vips = [setup.vip(), setup.vip_v6()].map(|vip| SocketAddr::new(vip, 7));

    let pid = setup.agent.process().pid();
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // The first connections make what stays: pools, threads, sockets of runtimes.
    soak::run(setup.client(), &vips, &backends, seed, 100).unwrap();
    let before = descriptors();
    let tally = soak::run(setup.client(), &vips, &backends, seed, CONNECTIONS).unwrap();
    println!("{tally:?}");
    assert!(tally.complete > 0 && tally.reset > 0, "{tally:?}");
    wait_until(LIMIT, "the descriptors to be given back", || {
        let now = descriptors();
        anyhow::ensure!(now <= before, "{now}, {before} before");
        Ok(Some(()))
    })
    .unwrap();
}
