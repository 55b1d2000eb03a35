// SPDX-License-Identifier: Apache-2.0
//! What the status of a Service should say.

use std::net::IpAddr;

use super::frontends::frontend_of;
use super::refused::Refused;
use crate::model::{Finalizer, PublishedPort, PublishedStatus, PublishedVip, Service, ServicePort};

/// The status of a Service that has these VIPs. `unusable`: why the traffic of a port can't go
/// anywhere for VIPs of one family. `is_dsr`: packets reach Nodes with the VIP
/// as destination, so the Nodes must accept it as their own (`ipMode: VIP`).
pub(super) fn status_of(
    service: &Service,
    vips: &[IpAddr],
    refused: &Refused,
    unusable: impl Fn(&ServicePort, &IpAddr) -> Option<&'static str>,
    is_dsr: bool,
    finalizer: Finalizer,
) -> PublishedStatus {
    let published = |&ip: &IpAddr| {
        let served = service.ports.iter().map(|port| {
            let refused = refused.get(&frontend_of(ip, port)).copied();
            let error = refused.or_else(|| unusable(port, &ip)).map(str::to_owned);
            PublishedPort { port: port.port.get(), protocol: port.protocol.to_string(), error }
        });
        let mut ports: Vec<PublishedPort> = served.chain(service.unsupported_ports.iter().cloned()).collect();
        ports.sort();
        PublishedVip { ip, proxy: !is_dsr, ports }
    };
    PublishedStatus { vips: vips.iter().map(published).collect(), finalizer, ..PublishedStatus::default() }
}
