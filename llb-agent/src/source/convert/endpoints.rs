// SPDX-License-Identifier: Apache-2.0
//! Converts an EndpointSlice to [`Endpoint`]s.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};

use super::quote::quote;
use crate::model::{Endpoint, Port, Problem, ProblemReason, Protocol, ServiceName, Subject};

/// The most pairs of an endpoint and a port of one slice. A slice has up to 1,000 endpoints and up to 100
/// ports, but controllers make slices of 100 endpoints. Each pair takes memory, so a slice of the largest size
/// would take a hundred times its own.
const MOST: usize = 10_000;

/// The label that names the Service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The Service and the endpoints of one slice. A slice without endpoints matters too: it
/// says that the Service has none.
pub(super) fn convert(
    slice: &EndpointSlice,
    problems: &mut Vec<Problem>,
) -> (Option<ServiceName>, Vec<Endpoint>) {
    let mut endpoints = Vec::new();
    let meta = &slice.metadata;
    // A slice without the label belongs to no Service.
    let Some(service) = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL)) else {
        return (None, endpoints);
    };
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let service = Some(ServiceName::new(namespace, service.as_str()));
    if slice.address_type == "FQDN" {
        return (service, endpoints);
    }
    let mut report = |reason, message| {
        let name = meta.name.as_deref().unwrap_or_default();
        let subject = Subject::Object(format!("EndpointSlice {namespace}/{name}"));
        problems.push(Problem { subject, reason, message });
    };
    for port in slice.ports.iter().flatten() {
        let Some((number, protocol)) = port_of(port) else { continue };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            let terminating = conditions.and_then(|given| given.terminating).unwrap_or(false);
            let ready = conditions.and_then(|given| given.ready).unwrap_or(true);
            // All addresses of an entry are interchangeable; the first is enough (KEP-752).
            let Some(text) = endpoint.addresses.first() else { continue };
            if endpoints.len() == MOST {
                let message = format!(
                    "it has more than {MOST} pairs of an endpoint and a port; the others are left out; use several slices"
                );
                report(ProblemReason::InvalidValue, message);
                return (service, endpoints);
            }
            match text.parse::<IpAddr>() {
                Ok(address) if !address.is_unspecified() && !address.is_multicast() => {
                    endpoints.push(Endpoint {
                        address,
                        port_name: port.name.clone().filter(|name| !name.is_empty()),
                        port: number,
                        protocol,
                        node: endpoint.node_name.clone(),
                        ready,
                        serving: conditions.and_then(|given| given.serving).unwrap_or(ready),
                        terminating,
                    })
                }
                _ => report(
                    ProblemReason::InvalidValue,
                    format!("endpoint address {} is not a unicast IP address; it is left out", quote(text)),
                ),
            }
        }
    }
    (service, endpoints)
}

/// `None` if no port of a Service can refer to it: it has another protocol or stands for all ports.
fn port_of(port: &EndpointPort) -> Option<(Port, Protocol)> {
    let protocol = match port.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some(_) => return None,
    };
    Some((Port::new(port.port?.into())?, protocol))
}
