// SPDX-License-Identifier: Apache-2.0
//! Converts a Kubernetes Service to [`Service`].

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    LoadBalancerIngress, Service as Object, ServicePort as ObjectPort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

use super::annotations::{Annotations, Given, POOL, SHARING_KEY, VIPS};
use super::quote::{self, quote};
use super::terms::terms_of;
use crate::model::{
    Condition, Conditions, FIELD_MANAGER, Family, Finalizer, Port, Problem, ProblemReason, Protocol,
    PublishedPort, PublishedStatus, PublishedVip, Service, ServiceName, ServicePort, TrafficPolicy,
    is_usable_vip,
};

/// `ports[].error` of a port with a protocol that llb does not forward.
const UNSUPPORTED_PROTOCOL: &str = "llb.dev/UnsupportedProtocol";
/// `ports[].error` of a UDP port of a Service that wants the PROXY protocol.
const PROXY_PROTOCOL_NEEDS_TCP: &str = "llb.dev/ProxyProtocolNeedsTCP";
/// `ports[].error` of a port with a number that is not valid.
const INVALID_PORT: &str = "llb.dev/InvalidPort";

pub(super) fn convert(
    object: &Object,
    foreign_annotations: bool,
    problems: &mut Vec<Problem>,
) -> (ServiceName, Service) {
    let meta = &object.metadata;
    let name = ServiceName::new(
        meta.namespace.as_deref().unwrap_or("default"),
        meta.name.as_deref().unwrap_or_default(),
    );
    let spec = object.spec.clone().unwrap_or_default();
    let mut service = Service {
        uid: meta.uid.clone().unwrap_or_default(),
        revision: meta.resource_version.clone().unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        wants_load_balancer: spec.type_.as_deref() == Some("LoadBalancer")
            && meta.deletion_timestamp.is_none(),
        deleting: meta.deletion_timestamp.is_some(),
        class: spec.load_balancer_class.clone(),
        cluster_ips: cluster_ips(&spec),
        status: status_of(object),
        conditions: conditions_of(object),
        ..Service::default()
    };
    if !service.wants_load_balancer {
        // llb uses no other field of such a Service, so mistakes in them are not reported.
        return (name, service);
    }
    service.labels = meta.labels.clone().unwrap_or_default();
    let mut report = |reason, message: String| problems.push(Problem::of_service(&name, reason, message));

    let annotations = Annotations::new(meta.annotations.as_ref(), foreign_annotations);
    annotations.report_ignored(&mut report);
    service.terms = terms_of(&spec, annotations, &mut |message| {
        report(ProblemReason::InvalidValue, message);
    });
    add_ports(&mut service, spec.ports.as_deref().unwrap_or_default(), &mut report);
    (service.families, service.needs_every_family) =
        families_of(spec.ip_families.as_deref(), spec.ip_family_policy.as_deref(), &mut report);
    service.traffic_policy = traffic_policy_of(spec.external_traffic_policy.as_deref(), &mut report);
    service.health_check_node_port = spec
        .health_check_node_port
        .and_then(|port| Port::new(port.into()))
        .filter(|_| service.traffic_policy == TrafficPolicy::Local);
    service.sharing_key = annotations.given(SHARING_KEY).and_then(|Given { name, text }| {
        let key = quote::name(text);
        // A key that is cut could be that of another Service.
        if key != text {
            let message =
                format!("annotation {name}: {} is too long and is ignored; use a short text", quote(text));
            report(ProblemReason::InvalidValue, message);
        }
        (key == text).then_some(key)
    });
    service.pool = annotations.given(POOL).map(|given| quote::name(given.text));
    match requested_vips(annotations.given(VIPS), spec.load_balancer_ip.as_deref()) {
        Ok(vips) => service.requested_vips = vips,
        Err(message) => {
            report(ProblemReason::InvalidValue, message);
            service.invalid = true;
        }
    }
    (name, service)
}

/// Sorts the ports into those that are served and those that are not.
fn add_ports(service: &mut Service, ports: &[ObjectPort], report: &mut impl FnMut(ProblemReason, String)) {
    /// As many as the frontends that one Service can have. An object of the largest size that the API
    /// accepts has twenty times as many.
    const MOST: usize = 1024;
    if ports.len() > MOST {
        let message = format!(
            "it has {} ports; one Service can have at most {MOST}, and the others are left out",
            ports.len()
        );
        report(ProblemReason::InvalidValue, message);
    }
    for port in ports.iter().take(MOST) {
        match convert_port(port) {
            Ok(udp) if udp.protocol == Protocol::Udp && service.terms.proxy_protocol.is_some() => {
                // Without the header the backend would take llb for the client.
                let message = format!(
                    "port {}/UDP is not served: the PROXY protocol is sent over TCP only; \
                     move the port to a Service without annotation llb.dev/proxy-protocol",
                    udp.port
                );
                report(ProblemReason::UnsupportedProtocol, message);
                service.unsupported_ports.push(PublishedPort {
                    port: udp.port.get(),
                    protocol: udp.protocol.to_string(),
                    error: Some(PROXY_PROTOCOL_NEEDS_TCP.to_owned()),
                });
            }
            Ok(port) => service.ports.push(port),
            Err((reason, message)) => {
                report(reason, message);
                service.unsupported_ports.extend(unsupported(port, reason));
            }
        }
    }
}

fn traffic_policy_of(text: Option<&str>, report: &mut impl FnMut(ProblemReason, String)) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            let message = format!(
                "externalTrafficPolicy {} is neither Cluster nor Local; Cluster is assumed",
                quote(other)
            );
            report(ProblemReason::InvalidValue, message);
            TrafficPolicy::Cluster
        }
    }
}

/// `None` and an empty text stand for no address.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let texts = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.dedup();
    addresses
}

fn convert_port(port: &ObjectPort) -> Result<ServicePort, (ProblemReason, String)> {
    let protocol = match port.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some(other) => {
            let message =
                format!("port {}: protocol {} is not forwarded; use TCP or UDP", port.port, quote(other));
            return Err((ProblemReason::UnsupportedProtocol, message));
        }
    };
    let number = Port::new(port.port.into()).ok_or_else(|| {
        (ProblemReason::InvalidValue, format!("port {} is not a number from 1 to 65535", port.port))
    })?;
    let node_port = match port.node_port {
        None | Some(0) => None,
        Some(given) => Some(Port::new(given.into()).ok_or_else(|| {
            (
                ProblemReason::InvalidValue,
                format!("port {number}: nodePort {given} is not a number from 1 to 65535"),
            )
        })?),
    };
    let name = port.name.clone().filter(|name| !name.is_empty());
    Ok(ServicePort { name, port: number, protocol, node_port })
}

/// The status of a port that is not served; `None` if the API would not accept it.
fn unsupported(port: &ObjectPort, reason: ProblemReason) -> Option<PublishedPort> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let error =
        if reason == ProblemReason::UnsupportedProtocol { UNSUPPORTED_PROTOCOL } else { INVALID_PORT };
    let known = ["TCP", "UDP", "SCTP"].contains(&protocol.as_str());
    let number = Port::new(port.port.into())?.get();
    known.then(|| PublishedPort { port: number, protocol, error: Some(error.to_owned()) })
}

/// The families in order, and whether each of them is needed.
fn families_of(
    families: Option<&[String]>,
    policy: Option<&str>,
    report: &mut impl FnMut(ProblemReason, String),
) -> (Vec<Family>, bool) {
    let mut list: Vec<Family> = Vec::new();
    for family in families.into_iter().flatten() {
        match family.as_str() {
            "IPv4" | "IPv6" => {
                let family = if family == "IPv4" { Family::V4 } else { Family::V6 };
                // Each entry asks for a VIP.
                if !list.contains(&family) {
                    list.push(family);
                }
            }
            other => {
                let message = format!(
                    "ipFamilies has {}, which is neither IPv4 nor IPv6; it is left out",
                    quote(other)
                );
                report(ProblemReason::InvalidValue, message);
            }
        }
    }
    // An API server fills in ipFamilies, with one family if the cluster has only one. A
    // manifest may leave them out.
    let fill_in =
        policy == Some("RequireDualStack") || (policy == Some("PreferDualStack") && list.is_empty());
    if fill_in {
        for family in [Family::V4, Family::V6] {
            if !list.contains(&family) {
                list.push(family);
            }
        }
    }
    if let Some(other) =
        policy.filter(|policy| !["", "SingleStack", "PreferDualStack", "RequireDualStack"].contains(policy))
    {
        let message = format!("ipFamilyPolicy {} is unknown; SingleStack is assumed", quote(other));
        report(ProblemReason::InvalidValue, message);
    }
    (list, policy != Some("PreferDualStack"))
}

/// The annotation takes precedence over the deprecated field, because it can name several VIPs.
fn requested_vips(annotation: Option<Given<'_>>, field: Option<&str>) -> Result<Vec<IpAddr>, String> {
    let (origin, text) = match (annotation, field) {
        (Some(Given { name, text }), _) => (format!("annotation {name}"), text),
        (_, Some(text)) if !text.trim().is_empty() => ("spec.loadBalancerIP".to_owned(), text),
        _ => return Ok(Vec::new()),
    };
    /// More VIPs are surely a mistake; each takes a listener for each port.
    const MOST: usize = 16;
    let mut vips: Vec<IpAddr> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let vip: IpAddr = part.parse().map_err(|_| {
            format!(
                "{origin}: {} is not an IP address; write one as 198.51.100.7 or 2001:db8::7",
                quote(part)
            )
        })?;
        is_usable_vip(vip).map_err(|what| format!("{origin}: {vip} is {what}, which cannot be a VIP"))?;
        if !vips.contains(&vip) {
            vips.push(vip);
        }
        // At once: a text of the largest size has thousands.
        if vips.len() > MOST {
            return Err(format!(
                "{origin} asks for more VIPs than the {MOST} that one Service can have at most"
            ));
        }
    }
    Ok(vips)
}

fn status_of(object: &Object) -> PublishedStatus {
    let ingress = object.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    PublishedStatus {
        vips: ingress.into_iter().flatten().filter_map(published_vip).collect(),
        // An API server that knows it has a default for it.
        modes_untold: ingress
            .into_iter()
            .flatten()
            .any(|entry| entry.ip.is_some() && entry.ip_mode.is_none()),
        finalizer: finalizer_of(&object.metadata),
    }
}

/// Those of llb; others are not llb's business.
fn conditions_of(object: &Object) -> Conditions {
    let mut found = Conditions::default();
    let all = object.status.as_ref().and_then(|status| status.conditions.as_ref());
    for condition in all.into_iter().flatten() {
        let place = match condition.type_.as_str() {
            Condition::PROGRAMMED => &mut found.programmed,
            Condition::REACHABLE => &mut found.reachable,
            _ => continue,
        };
        *place = Some(Condition {
            is_true: condition.status == "True",
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: Some(condition.last_transition_time.0.to_string()),
        });
    }
    found
}

/// `None` if the entry has no IP address. llb does not write such entries, and overwrites them.
fn published_vip(entry: &LoadBalancerIngress) -> Option<PublishedVip> {
    let ip = entry.ip.as_ref()?.parse().ok()?;
    let ports = entry.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        Some(PublishedPort { port: number, protocol: port.protocol.clone(), error: port.error.clone() })
    });
    let mut ports: Vec<PublishedPort> = ports.collect();
    ports.sort();
    let proxy = entry.ip_mode.as_deref() == Some("Proxy");
    Some(PublishedVip { ip, proxy, ports })
}

/// Whether the Service has the finalizer of load balancers, and whether llb has added it.
fn finalizer_of(meta: &ObjectMeta) -> Finalizer {
    if !meta.finalizers.iter().flatten().any(|name| name == Finalizer::NAME) {
        return Finalizer::Absent;
    }
    let item = format!("v:{:?}", Finalizer::NAME);
    let is_ours = |fields: &ManagedFieldsEntry| {
        let added = fields.fields_v1.as_ref().map(|fields| &fields.0["f:metadata"]["f:finalizers"][&item]);
        fields.manager.as_deref() == Some(FIELD_MANAGER) && added.is_some_and(|added| !added.is_null())
    };
    match meta.managed_fields.iter().flatten().any(is_ours) {
        true => Finalizer::Ours,
        false => Finalizer::Foreign,
    }
}
