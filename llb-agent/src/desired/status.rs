// SPDX-License-Identifier: Apache-2.0
//! What the status of a Service should say.

use std::net::IpAddr;

use super::frontends::frontend_of;
use super::refused::Refused;
use crate::model::{Finalizer, PublishedPort, PublishedStatus, PublishedVip, Service};

/// The status of a Service that has these VIPs. `is_dsr`: packets reach Nodes with the VIP
/// as destination, so the Nodes must accept it as their own (`ipMode: VIP`).
pub(super) fn status_of(
    service: &Service,
    vips: &[IpAddr],
    refused: &Refused,
    is_dsr: bool,
    finalizer: Finalizer,
) -> PublishedStatus {
    let published = |&ip: &IpAddr| {
        let served = service.ports.iter().map(|port| {
            let error = refused.get(&frontend_of(ip, port)).map(|&error| error.to_owned());
            PublishedPort { port: port.port.get(), protocol: port.protocol.to_string(), error }
        });
        let mut ports: Vec<PublishedPort> = served.chain(service.unsupported_ports.iter().cloned()).collect();
        ports.sort();
        PublishedVip { ip, proxy: !is_dsr, ports }
    };
    PublishedStatus { vips: vips.iter().map(published).collect(), finalizer }
}
