// SPDX-License-Identifier: Apache-2.0
//! The packet plane continues without an agent, and each new agent adopts what it finds. Only one agent at a
//! time holds a link.

use std::net::SocketAddr;

use llb_tests::client::{connect, echo_on, http_get};
use llb_tests::steady::connect_all;
use llb_tests::{Steady, agent, wait_until};

use super::{ECHO, HTTP, layouts};
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// Connections to each of the two VIPs.
const CONNECTIONS: usize = 500;
/// Messages on each connection between two steps.
const ROUNDS: usize = 3;

pub(crate) fn a_thousand_connections_outlive_every_kind_of_restart(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--at-stop", "keep", "--max-flows", "4096"]);
    let (addresses, steady) = serve_steadily(&mut setup, CONNECTIONS);
    let go_on = |steady: &Steady| steady.wait_for_rounds(ROUNDS, LIMIT).unwrap();
    let mut silent = connect(setup.client(), addresses[0]).unwrap();
    echo_on(&mut silent, b"and then nothing").unwrap();
    go_on(&steady);

    setup.agent.process().kill9().unwrap();
    go_on(&steady);
    restart(&mut setup);
    go_on(&steady);

    stop(&mut setup);
    // New connections are served as well, without any agent.
    for vip in addresses {
        let mut new = connect(setup.client(), vip).unwrap();
        echo_on(&mut new, b"nobody is at home").unwrap();
    }
    go_on(&steady);
    restart(&mut setup);
    go_on(&steady);

    // Maps of another size must adopt the flows of the old ones.
    for flows in ["65536", "2048"] {
        stop(&mut setup);
        setup.set_argument("--max-flows", flows);
        restart(&mut setup);
        go_on(&steady);
    }

    // So must maps of another layout.
    stop(&mut setup);
    let flows = layouts::make_older(&setup.lab.balancer().bpf_directory()).unwrap();
    go_on(&steady);
    restart(&mut setup);
    // The entry must come from the old map: no packet has arrived that could have created it.
    assert!(flows.have(silent.local_addr().unwrap().port()).unwrap());
    go_on(&steady);
    echo_on(&mut silent, b"still there?").unwrap();

    stop(&mut setup);
    assert_eq!(setup.agent.process().exit_status().unwrap().map(|status| status.success()), Some(true));

    go_on(&steady);
    let failures = steady.stop().unwrap();
    assert!(failures.is_empty(), "{} of {}: {:?}", failures.len(), 2 * CONNECTIONS, failures.first());
    assert!(setup.lab.balancer().has_address(setup.vip()).unwrap());
    detach(&setup);
    assert!(!setup.lab.balancer().has_address(setup.vip()).unwrap());
    assert!(!setup.lab.balancer().bpf_directory().exists());
}

fn restart(setup: &mut Setup) {
    setup.restart_agent();
    for vip in [setup.vip(), setup.vip_v6()] {
        setup.wait_on_plane(vip, ECHO.port, ECHO.protocol, "packet");
    }
}

fn stop(setup: &mut Setup) {
    setup.agent.terminate().unwrap();
    assert!(setup.agent.wait_exit().unwrap().success(), "{}", setup.agent.log());
}

fn detach(setup: &Setup) {
    let (program, folder) = (agent::binary().unwrap(), setup.lab.balancer().bpf_directory());
    let state = setup.lab.directory().join("balancer.state");
    let [program, folder, state] = [&program, &folder, &state].map(|path| path.to_str().unwrap());
    setup.lab.balancer().output(&[program, "detach", "--bpf-dir", folder, "--state-dir", state]).unwrap();
}

pub(crate) fn a_second_agent_on_the_link_refuses_and_changes_nothing(plane: Plane) {
    let mut setup = Setup::new(plane);
    setup.serve_http(HTTP.node_port);
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let elsewhere = setup.lab.directory().join("second.state");
    let host = setup.lab.balancer();
    let mut command = host.command(agent::binary().unwrap());
    command
        .args(["--linkdevice", llb_tests::Host::LINK, "--admin", "127.0.0.1:9661"])
        .arg("--manifests")
        .arg(setup.manifests.path())
        .arg("--state-dir")
        .arg(elsewhere)
        .arg("--bpf-dir")
        .arg(host.bpf_directory())
        .args(plane.arguments());
    let mut second = host.spawn(command, "second-agent").unwrap();
    let status = second.wait_exit(LIMIT).unwrap();
    assert!(!status.success(), "{}", second.log());
    assert!(second.log().contains("eth0"), "{}", second.log());
    http_get(setup.client(), SocketAddr::new(setup.vip(), HTTP.port)).unwrap();
    setup.agent.terminate().unwrap();
    assert!(setup.agent.wait_exit().unwrap().success(), "{}", setup.agent.log());
    wait_until(LIMIT, "its pins to go", || Ok((!host.bpf_directory().exists()).then_some(()))).unwrap();
}

/// Serves an echo, and keeps so many connections of each family busy.
pub(super) fn serve_steadily(setup: &mut Setup, connections: usize) -> ([SocketAddr; 2], Steady) {
    setup.serve_echo(ECHO.node_port);
    let vips = [setup.vip(), setup.vip_v6()];
    setup.serve("echo", &vips, &[ECHO]);
    let addresses = vips.map(|vip| SocketAddr::new(vip, ECHO.port));
    let streams = addresses.map(|vip| connect_all(setup.client(), vip, connections).unwrap());
    let steady = Steady::start(streams.into_iter().flatten().collect());
    (addresses, steady)
}
