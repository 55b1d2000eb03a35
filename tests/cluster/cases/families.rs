// SPDX-License-Identifier: Apache-2.0
//! Both address families and both protocols in one Service.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::case::{Case, ECHO_PORT};

pub(crate) fn one_service_serves_both_families_and_both_protocols(case: &mut Case<'_>) -> Result<()> {
    case.add_echo_pods(&["node-1", "node-2"])?;
    let vips = [case.vip(0), case.vip_v6(0)];
    let _agent = case.agent(&["--pool", &vips[0].to_string(), "--pool", &vips[1].to_string()])?;
    case.apply_service(
        "echo",
        &json!({
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "web", "port": ECHO_PORT},
                {"name": "datagrams", "port": ECHO_PORT, "protocol": "UDP"},
                // Kubernetes knows SCTP, llb does not: llb reports that and serves the other ports.
                {"name": "streams", "port": 9999, "protocol": "SCTP"},
            ],
        }),
    )?;
    case.wait_for_status("echo", &vips)?;
    for vip in vips {
        case.ask_often(SocketAddr::new(vip, ECHO_PORT))?;
        let answer = case.wait_for_datagram(SocketAddr::new(vip, ECHO_PORT))?;
        assert_eq!(answer.content, "ping");
    }
    let service = case.service("echo")?;
    for entry in service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten() {
        let port = |protocol: &str| -> Value {
            let ports = entry["ports"].as_array().cloned().unwrap_or_default();
            ports.into_iter().find(|port| port["protocol"] == protocol).unwrap_or_default()
        };
        assert_eq!(port("TCP"), json!({"port": ECHO_PORT, "protocol": "TCP"}));
        assert_eq!(port("UDP"), json!({"port": ECHO_PORT, "protocol": "UDP"}));
        assert!(port("SCTP")["error"].is_string(), "{entry}");
    }
    Ok(())
}
