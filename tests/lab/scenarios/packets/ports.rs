// SPDX-License-Identifier: Apache-2.0
//! Many more connections than the source ports that backends see.

use std::net::SocketAddr;

use llb_tests::manifests;
use llb_tests::{Wrk, wait_until};

use super::HTTP;
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup};

/// Many more than there are source ports.
const CONNECTIONS: u64 = 20_000;

pub(crate) fn ports_of_closed_connections_are_used_again(plane: Plane) {
    let mut setup = Setup::with_arguments(plane, &["--snat-ports", "20000-20999"]);
    setup.serve_http(HTTP.node_port);
    setup.manifests.write("nodes.yaml", &manifests::nodes(&[setup.lab.host("node-1")])).unwrap();
    setup.serve("web", &[setup.vip()], &[HTTP]);
    let load = Wrk::start(setup.client(), SocketAddr::new(setup.vip(), HTTP.port)).unwrap();
    wait_until(4 * LIMIT, &format!("{CONNECTIONS} connections"), || {
        Ok((setup.agent.connections()? >= CONNECTIONS).then_some(()))
    })
    .unwrap();
    let outcome = load.stop().unwrap();
    println!("{} answered", outcome.answered);
    assert_eq!(outcome.failures, [""; 0], "of {}", outcome.answered);
    let exhausted = setup.agent.metric("llb_packet_reasons_total{reason=\"ports_exhausted\"}").unwrap();
    assert_eq!(exhausted, 0);
}
