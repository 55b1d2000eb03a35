// SPDX-License-Identifier: Apache-2.0
//! The cluster itself. If this case fails, the others say nothing about llb.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;

use crate::case::{Case, ECHO_PORT};

const TCP_NODE_PORT: u16 = 30_888;
const UDP_NODE_PORT: u16 = 30_889;

pub(crate) fn node_ports_work_without_llb(case: &mut Case<'_>) -> Result<()> {
    // Only on node-2: kube-proxy on node-1 forwards requests there.
    case.add_echo_pods(&["node-2"])?;
    case.apply_service(
        "echo",
        &json!({
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "web", "port": ECHO_PORT, "nodePort": TCP_NODE_PORT},
                {"name": "datagrams", "port": ECHO_PORT, "protocol": "UDP", "nodePort": UDP_NODE_PORT},
            ],
        }),
    )?;
    for name in ["node-1", "node-2"] {
        let host = case.lab.host(name).clone();
        for node in [host.at(0), host.at_v6(0)] {
            let answer = case.wait_for_answer(SocketAddr::new(node.ip(), TCP_NODE_PORT))?;
            assert_eq!(answer.name, "node-2");
            let answer = case.wait_for_datagram(SocketAddr::new(node.ip(), UDP_NODE_PORT))?;
            assert_eq!((answer.name.as_str(), answer.content.as_str()), ("node-2", "ping"));
        }
    }
    // How a user would ask.
    let url = format!("http://{}/", case.lab.host("node-1").at(TCP_NODE_PORT));
    let answer = case.lab.client().output(&["curl", "--silent", "--show-error", "--max-time", "5", &url])?;
    assert!(answer.starts_with("node-2 "), "{answer}");
    Ok(())
}
