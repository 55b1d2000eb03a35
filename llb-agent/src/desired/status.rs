// SPDX-License-Identifier: Apache-2.0
//! What the status of a Service should say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::frontends::frontend_of;
use crate::model::{Frontend, PublishedPort, PublishedStatus, PublishedVip, Service};

/// `ports[].error` of an added port that another Service has on this VIP.
pub(super) const FRONTEND_COLLISION: &str = "llb.dev/FrontendCollision";

/// The status of a Service that has these VIPs. `is_dsr`: packets reach Nodes with the VIP
/// as destination, so the Nodes must accept it as their own (`ipMode: VIP`).
pub(super) fn status_of(
    service: &Service,
    vips: &[IpAddr],
    collisions: &BTreeSet<Frontend>,
    is_dsr: bool,
) -> PublishedStatus {
    let published = |&ip: &IpAddr| {
        let served = service.ports.iter().map(|port| {
            let collides = collisions.contains(&frontend_of(ip, port));
            let error = collides.then(|| FRONTEND_COLLISION.to_owned());
            PublishedPort { port: port.port.get(), protocol: port.protocol.to_string(), error }
        });
        let mut ports: Vec<PublishedPort> = served.chain(service.unsupported_ports.iter().cloned()).collect();
        ports.sort();
        PublishedVip { ip, proxy: !is_dsr, ports }
    };
    PublishedStatus { vips: vips.iter().map(published).collect() }
}
