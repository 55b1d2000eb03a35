// SPDX-License-Identifier: Apache-2.0
//! Converts the fields and annotations of a Service about its traffic to [`Terms`]. A
//! value that makes no sense never admits more clients than the user asked for.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::ServiceSpec;

use super::annotations::{Annotations, BALANCE, HEALTH_CHECK, MAX_CONNECTIONS, MODE, PROXY_PROTOCOL};
use super::quote::quote;
use crate::model::{Balance, HealthCheck, Mode, ProxyProtocol, SourceRanges, Terms};

/// Used if the field `loadBalancerSourceRanges` is empty. It is older than the field.
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// The default of the API server (`DefaultClientIPServiceAffinitySeconds`); a manifest may
/// leave it out.
const DEFAULT_AFFINITY_SECS: i32 = 10_800;
/// The longest time that the API accepts (`MaxClientIPServiceAffinitySeconds`): a day.
const LONGEST_AFFINITY_SECS: i32 = 86_400;

pub(super) fn terms_of(
    spec: &ServiceSpec,
    annotations: Annotations<'_>,
    report: &mut impl FnMut(String),
) -> Terms {
    let mut terms = Terms::default();
    match annotations.text(BALANCE) {
        None => {}
        Some("least-connections") => terms.balance = Some(Balance::LeastConnections),
        Some("maglev") => terms.balance = Some(Balance::Maglev),
        Some(other) => report(format!(
            "annotation {BALANCE}: {} is neither least-connections nor maglev; it is ignored",
            quote(other)
        )),
    }
    match annotations.text(MODE) {
        None => {}
        Some("nat") => terms.mode = Some(Mode::Nat),
        Some("dsr") => terms.mode = Some(Mode::Dsr),
        Some(other) => {
            report(format!("annotation {MODE}: {} is neither nat nor dsr; --mode decides", quote(other)))
        }
    }
    match annotations.text(PROXY_PROTOCOL) {
        None => {}
        Some("v1") => terms.proxy_protocol = Some(ProxyProtocol::V1),
        Some("v2") => terms.proxy_protocol = Some(ProxyProtocol::V2),
        Some(other) => report(format!(
            "annotation {PROXY_PROTOCOL}: {} is neither v1 nor v2; no header is sent",
            quote(other)
        )),
    }
    if let Some(text) = annotations.text(MAX_CONNECTIONS) {
        match text.parse() {
            Ok(limit) => terms.max_connections = Some(limit),
            Err(_) => report(format!(
                "annotation {MAX_CONNECTIONS}: {} is not a number from 1 to {}; it is ignored",
                quote(text),
                u32::MAX
            )),
        }
    }
    terms.health_check = annotations.text(HEALTH_CHECK).and_then(|text| health_check_of(text, report));
    terms.affinity_timeout = affinity_of(spec, report);
    terms.source_ranges = source_ranges_of(spec, annotations.text(SOURCE_RANGES_ANNOTATION), report);
    terms
}

fn health_check_of(text: &str, report: &mut impl FnMut(String)) -> Option<HealthCheck> {
    /// Long enough for any path, and short enough for a log line.
    const LONGEST_PATH: usize = 256;
    /// The length takes one byte of the question.
    const LONGEST_NAME: usize = 127;
    // What HTTP allows in the target of a request (RFC 9112, 3.2.1), less what starts a fragment.
    let is_path = |path: &str| {
        path.starts_with('/')
            && path.len() <= LONGEST_PATH
            && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
    };
    let is_name =
        |name: &str| (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    match text.split_once(':').unwrap_or((text, "")) {
        ("tcp", "") if text == "tcp" => return Some(HealthCheck::Tcp),
        ("grpc", "") if text == "grpc" => return Some(HealthCheck::Grpc(Arc::default())),
        ("grpc", name) if is_name(name) => return Some(HealthCheck::Grpc(Arc::from(name))),
        ("http", path) if is_path(path) => return Some(HealthCheck::Http(Arc::from(path))),
        _ => {}
    }
    report(format!(
        "annotation {HEALTH_CHECK}: {} is none of tcp, http:/path (at most {LONGEST_PATH} bytes), grpc and grpc:SERVICE \
         (at most {LONGEST_NAME} bytes); nothing is checked",
        quote(text)
    ));
    None
}

fn affinity_of(spec: &ServiceSpec, report: &mut impl FnMut(String)) -> Option<Duration> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            report(format!("sessionAffinity {} is neither None nor ClientIP; None is assumed", quote(other)));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let given = config.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECS);
    let seconds = if (1..=LONGEST_AFFINITY_SECS).contains(&given) {
        given
    } else {
        report(format!(
            "sessionAffinityConfig.clientIP.timeoutSeconds {given} is not from 1 to {LONGEST_AFFINITY_SECS}; {DEFAULT_AFFINITY_SECS} is assumed"
        ));
        DEFAULT_AFFINITY_SECS
    };
    Some(Duration::from_secs(u64::from(seconds.unsigned_abs())))
}

/// An entry that is not a range admits nobody; the other entries are used. So a typing
/// error can lock somebody out, but never lets anybody in.
fn source_ranges_of(
    spec: &ServiceSpec,
    annotation: Option<&str>,
    report: &mut impl FnMut(String),
) -> SourceRanges {
    let field = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let (origin, texts): (_, Vec<&str>) = match (field, annotation) {
        ([], None) => return SourceRanges::default(),
        ([], Some(text)) => (format!("annotation {SOURCE_RANGES_ANNOTATION}"), text.split(',').collect()),
        (field, _) => {
            ("spec.loadBalancerSourceRanges".to_owned(), field.iter().map(String::as_str).collect())
        }
    };
    /// Each of them takes room in the programs' maps.
    const MOST: usize = 1024;
    if texts.len() > MOST {
        let message = format!(
            "{origin} has {} entries; the first {MOST} count, and the others admit nobody",
            texts.len()
        );
        report(message);
    }
    let mut ranges = Vec::new();
    for text in texts.into_iter().take(MOST) {
        match text.trim().parse() {
            // llb never sees a client with an IPv4-mapped address, so the range would admit nobody.
            Ok(IpNet::V6(range)) if range.addr().to_ipv4_mapped().is_some() => {
                report(format!("{origin}: {range} is IPv4-mapped and admits nobody; write the IPv4 range"))
            }
            Ok(range) => ranges.push(range),
            Err(_) => report(format!(
                "{origin}: {} is not a range of addresses and admits nobody; write one as 198.51.100.0/24 or 2001:db8::/32",
                quote(text)
            )),
        }
    }
    SourceRanges::only(&ranges)
}
