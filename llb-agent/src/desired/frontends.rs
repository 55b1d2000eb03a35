// SPDX-License-Identifier: Apache-2.0
//! Which frontends a Service has. Not: who gets one that several ask for (`allocate.rs`).

use std::net::IpAddr;

use crate::model::{Frontend, Service, ServicePort};

/// One frontend for each port on each VIP.
pub(super) fn frontends_of<'a>(
    service: &'a Service,
    vips: &'a [IpAddr],
) -> impl Iterator<Item = (Frontend, &'a ServicePort)> {
    vips.iter().flat_map(move |&vip| service.ports.iter().map(move |port| (frontend_of(vip, port), port)))
}

/// The frontend of one port on one VIP.
pub(super) fn frontend_of(vip: IpAddr, port: &ServicePort) -> Frontend {
    Frontend { vip, port: port.port, protocol: port.protocol }
}
