// SPDX-License-Identifier: Apache-2.0
//! Which Services this llb serves: by type, class and namespace.

use std::sync::Arc;

use super::inputs::Inputs;
use crate::config::Policy;
use crate::model::{Problem, Service, ServiceName, Subject};

/// The Services that this llb serves.
pub(super) fn ours(inputs: Inputs<'_>) -> impl Iterator<Item = (&ServiceName, &Service)> {
    let all = inputs.snapshot.services.iter().map(|(name, service)| (name, &**service));
    all.filter(move |(name, service)| is_ours(inputs.policy, name, service))
}

/// The Services that would be ours, but are no longer of type LoadBalancer, and
/// still have a status or conditions from llb. A status that somebody else published is left alone.
pub(super) fn formerly_ours(inputs: Inputs<'_>) -> impl Iterator<Item = &ServiceName> {
    let all = inputs.snapshot.services.iter();
    let former = all.filter(move |(name, service)| {
        !service.wants_load_balancer && is_for_us(inputs.policy, name, service)
    });
    let has_ours = move |(name, service): &(&ServiceName, &Arc<Service>)| {
        inputs.held.contains_key(*name) || !service.conditions.is_empty()
    };
    former.filter(has_ours).map(|(name, _)| name)
}

/// The snapshot's problems, without those of Services that others serve.
pub(super) fn problems_of_ours(inputs: Inputs<'_>) -> Vec<Problem> {
    let is_ours = |problem: &&Problem| match &problem.subject {
        Subject::Service(name) => {
            inputs.snapshot.services.get(name).is_some_and(|service| is_ours(inputs.policy, name, service))
        }
        _ => true,
    };
    inputs.snapshot.problems.iter().filter(is_ours).cloned().collect()
}

/// Whether this llb serves the Service.
pub fn is_ours(policy: &Policy, name: &ServiceName, service: &Service) -> bool {
    service.wants_load_balancer && is_for_us(policy, name, service)
}

/// Whether class and namespace are ours, whatever the type.
fn is_for_us(policy: &Policy, name: &ServiceName, service: &Service) -> bool {
    let class_fits = match &service.class {
        Some(class) => *class == policy.class,
        None => policy.default_class,
    };
    class_fits
        && (policy.namespaces.is_empty()
            || policy.namespaces.iter().any(|namespace| **namespace == *name.namespace))
}
