// SPDX-License-Identifier: Apache-2.0
//! Thousands of connections of every kind, and what they leave behind in the agent.

use std::fs;
use std::net::SocketAddr;

use llb_tests::manifests::PortSpec;
use llb_tests::soak::{self, Backends};
use llb_tests::{environment, wait_until};

use crate::plane::Plane;
use crate::scenarios::sockmap;
use crate::setup::{LIMIT, NODES, Setup};

/// More of them: `LLB_SOAK_CONNECTIONS=100000 cargo xtask test --only lab soak`.
const CONNECTIONS: u64 = 3_000;
/// Memory that the allocator may keep for later.
const KEPT_BYTES: u64 = 16 << 20;
/// The page size of most machines. Where pages are larger, the check is less strict.
const PAGE_BYTES: u64 = 4096;
/// Ports are free again after a second instead of a minute.
const SYSCTLS: [&str; 2] = ["net.ipv4.tcp_tw_reuse=1", "net.ipv4.ip_local_port_range=1024 65535"];

/// Descriptors of empty pipes that each worker keeps for its next bulk connections: 32 pipes with two ends
/// each.
const KEPT_PIPES: usize = 64;

pub(crate) fn a_soak_loses_no_byte_and_leaves_no_descriptor(plane: Plane) {
    let mut setup = Setup::new(plane);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let connections = environment::soak_connections().unwrap_or(CONNECTIONS);
    let nodes = NODES.map(|node| setup.lab.host(node));
    let places: Vec<_> =
        nodes.iter().flat_map(|host| [(*host, host.at(30007)), (*host, host.at_v6(30007))]).collect();
    let backends = Backends::start(&places, seed).unwrap();
    setup.serve("soak", &[setup.vip(), setup.vip_v6()], &[PortSpec::tcp("soak", 7, 30007)]);
    let vips = [setup.vip(), setup.vip_v6()].map(|vip| SocketAddr::new(vip, 7));

    for host in [setup.client(), setup.lab.balancer()] {
        host.output(&["sysctl", "-q", "-w", SYSCTLS[0], SYSCTLS[1]]).unwrap();
    }
    let pid = setup.agent.process().pid();
    let descriptors = || open_descriptors(pid);
    // The first connections create what stays: threads, and the sockets of their runtimes.
    soak::run(setup.client(), &vips, &backends, seed, 100).unwrap();
    let before = (descriptors().others, setup.resident_bytes());
    let queued_before = queued_bytes();
    let tally = soak::run(setup.client(), &vips, &backends, seed, connections).unwrap();
    println!("{tally:?}");
    assert!(tally.complete > 0 && tally.reset > 0, "{tally:?}");
    wait_until(LIMIT, "the descriptors to be given back", || {
        let now = descriptors();
        anyhow::ensure!(now.others <= before.0, "{now:?}, {} before", before.0);
        anyhow::ensure!(now.pipes <= KEPT_PIPES * workers(), "{now:?}: more pipes than workers keep");
        Ok(Some(()))
    })
    .unwrap();
    if matches!(plane, Plane::Sockmap) {
        let handed_over = setup.agent.metric("llb_sockmap_handovers_total").unwrap();
        println!("{handed_over} times the kernel moved the bytes");
        assert!(handed_over > 0);
        sockmap::leaves_nothing(&setup);
    }
    wait_until(LIMIT, "the kernel to have no more in its queues", || {
        let queued = queued_bytes();
        anyhow::ensure!(queued <= queued_before + KEPT_BYTES, "{queued} bytes, {queued_before} before");
        Ok(Some(()))
    })
    .unwrap();
    println!("queues: {queued_before} bytes before, {} after", queued_bytes());
    let kept = setup.resident_bytes().saturating_sub(before.1);
    println!("memory grew by {} KiB", kept >> 10);
    assert!(kept <= KEPT_BYTES, "{kept} bytes of memory were kept");
}

#[derive(Debug)]
struct Descriptors {
    /// Each pipe has two descriptors.
    pipes: usize,
    others: usize,
}

fn open_descriptors(pid: u32) -> Descriptors {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    // A descriptor that was closed meanwhile has no target.
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    let (pipes, others): (Vec<_>, Vec<_>) =
        targets.partition(|target| target.to_string_lossy().starts_with("pipe:"));
    Descriptors { pipes: pipes.len(), others: others.len() }
}

/// The default of `--workers`.
fn workers() -> usize {
    std::thread::available_parallelism().unwrap().get().min(16)
}

/// Memory of all TCP sockets of this machine, as the kernel counts it. Each CPU may report up to 1 MiB late.
fn queued_bytes() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    pages * PAGE_BYTES
}
