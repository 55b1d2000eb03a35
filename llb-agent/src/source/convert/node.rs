// SPDX-License-Identifier: Apache-2.0
//! Converts a Kubernetes Node to [`Node`].

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node as Object;

use super::quote::quote;
use crate::model::{Node, Problem, ProblemReason, Subject};

/// Excludes a Node from external load balancers (KEP-1143), unless its value says false.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Set by the cluster autoscaler shortly before it deletes a Node.
const DOOMED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Whether the value says false as Go's `strconv.ParseBool` reads it. The service controller of
/// Kubernetes reads the label like that: what is no boolean, as the usual empty value, excludes.
fn is_false(value: &str) -> bool {
    matches!(value, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

pub(super) fn convert(object: &Object, problems: &mut Vec<Problem>) -> (String, Node) {
    let name = object.metadata.name.clone().unwrap_or_default();
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let doomed = taints.into_iter().flatten().any(|taint| taint.key == DOOMED_TAINT);
    let excluded = labels.get(EXCLUDE_LABEL).is_some_and(|value| !is_false(value));
    let spec = object.spec.as_ref();
    let pod_ranges = spec.into_iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    let mut pod_ranges: Vec<_> = pod_ranges.filter_map(|text| text.parse().ok()).collect();
    pod_ranges.dedup();
    let mut node = Node {
        pod_ranges,
        excluded: excluded || doomed || object.metadata.deletion_timestamp.is_some(),
        external_id: object.spec.as_ref().and_then(|spec| spec.external_id.as_ref()?.parse().ok()),
        labels,
        ..Node::default()
    };
    let addresses = object.status.as_ref().and_then(|status| status.addresses.as_ref());
    for entry in addresses.into_iter().flatten() {
        let list = match entry.type_.as_str() {
            "InternalIP" => &mut node.internal,
            "ExternalIP" => &mut node.external,
            _ => continue, // A hostname or DNS name.
        };
        match entry.address.parse::<IpAddr>() {
            Ok(address) if !address.is_unspecified() && !address.is_multicast() => list.push(address),
            _ => problems.push(Problem {
                subject: Subject::Object(format!("Node {name}")),
                reason: ProblemReason::InvalidValue,
                message: format!(
                    "{} {} is not a unicast IP address; it is left out",
                    entry.type_,
                    quote(&entry.address)
                ),
            }),
        }
    }
    (name, node)
}
