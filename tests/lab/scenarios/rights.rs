// SPDX-License-Identifier: Apache-2.0
//! The agent gives up rights at its start, and everything that it does later works without them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use llb_tests::client::http_get;
use llb_tests::manifests::PortSpec;
use llb_tests::{Agent, wait_until};

use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

const WEB: PortSpec<'static> = PortSpec { name: "http", port: 80, protocol: "TCP", node_port: 30080 };

/// The bits of capabilities(7).
const DAC_READ_SEARCH: u32 = 2;
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const SYS_RESOURCE: u32 = 24;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

pub(crate) fn what_an_agent_does_later_works_with_the_rights_that_it_keeps(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(30080);
    assert_rights(&mut setup.agent, plane);
    let folder = setup.lab.directory().join(format!("{}.state", setup.lab.balancer().name()));
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o7777, 0o700);

    // VIPs come and go.
    let vip = SocketAddr::new(setup.vip(), 80);
    for _ in 0..2 {
        setup.serve("web", &[setup.vip(), setup.vip_v6()], &[WEB]);
        http_get(setup.client(), vip).unwrap();
        setup.manifests.remove("web.yaml").unwrap();
        setup.wait_address(setup.vip(), false);
    }

    // A new agent takes over, as the second owner of programs and listeners.
    setup.serve("web", &[setup.vip(), setup.vip_v6()], &[WEB]);
    let mut old = setup.succeed_agent();
    assert_eq!(old.wait_exit().unwrap().code(), Some(0), "{}", old.log());
    assert_rights(&mut setup.agent, plane);
    http_get(setup.client(), vip).unwrap();

    // A link that is made anew gets programs and addresses.
    setup.lab.balancer().replace_link().unwrap();
    setup.wait_serving(setup.vip(), 80, "TCP");
    wait_until(LIMIT, "an answer by the new link", || http_get(setup.client(), vip).map(Some)).unwrap();

    // An agent that starts again finds what the old one left. SIGTERM would wait for connections that were
    // open while the link was away.
    setup.agent.process().kill9().unwrap();
    setup.restart_agent();
    setup.wait_serving(setup.vip(), 80, "TCP");
    http_get(setup.client(), vip).unwrap();
}

/// All threads have exactly the rights of this plane.
fn assert_rights(agent: &mut Agent, plane: Plane) {
    let mut kept = vec![DAC_READ_SEARCH, NET_BIND_SERVICE, NET_ADMIN, NET_RAW, SYS_RESOURCE];
    if !matches!(plane, Plane::Userspace) {
        kept.extend([PERFMON, BPF]);
    }
    // A machine for tests may not give all of them to root.
    let mask = kept.iter().map(|bit| 1 << bit).sum::<u64>() & own_capabilities();
    let mask = format!("{mask:016x}");
    let none = format!("{:016x}", 0);
    let expected = [
        ("CapInh", none.as_str()),
        ("CapPrm", &mask),
        ("CapEff", &mask),
        ("CapBnd", &mask),
        ("CapAmb", &none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    let tasks = format!("/proc/{}/task", agent.process().pid());
    let threads: Vec<_> = fs::read_dir(tasks).unwrap().map(|thread| thread.unwrap().path()).collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        // A thread of the pool may have ended meanwhile.
        let Ok(status) = fs::read_to_string(thread.join("status")) else { continue };
        for (name, value) in expected {
            let line = format!("{name}:\t{value}");
            assert!(status.lines().any(|found| found == line), "{line} is missing:\n{status}");
        }
    }
}

/// Those of this process, which the agent starts with.
fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}
