// SPDX-License-Identifier: Apache-2.0
//! Which Services this llb serves: by type, class and namespace.

use super::inputs::Inputs;
use crate::config::Policy;
use crate::model::{Finalizer, Problem, Service, ServiceName, Subject};

/// The Services that this llb serves.
pub(super) fn ours(inputs: Inputs<'_>) -> impl Iterator<Item = (&ServiceName, &Service)> {
    let all = inputs.snapshot.services.iter().map(|(name, service)| (name, &**service));
    all.filter(move |(name, service)| is_ours(inputs.policy, name, service))
}

/// The Services that would be ours, but are no longer of type LoadBalancer, and
/// still have a status, conditions or a finalizer from llb. A status that somebody else published is left alone.
pub(super) fn formerly_ours(inputs: Inputs<'_>) -> impl Iterator<Item = &ServiceName> {
    let all = inputs.snapshot.services.iter();
    let former = all.filter(move |(name, service)| {
        let held = inputs.held.get(*name);
        // Without its type, a Service has no class any more.
        let has_ours = held.is_some_and(|held| held.finalizer == Finalizer::Ours)
            || (!service.deleting && !service.conditions.is_empty());
        let lost_its_class = service.class.is_none() && has_ours;
        (held.is_some() || !service.conditions.is_empty())
            && !service.wants_load_balancer
            && is_in_namespace(inputs.policy, name)
            && (lost_its_class || has_class(inputs.policy, service))
    });
    former.map(|(name, _)| name)
}

/// Those of [`formerly_ours`] that only our finalizer keeps from being gone, as far as llb knows. Their status goes with
/// them.
pub(super) fn leaving(inputs: Inputs<'_>) -> impl Iterator<Item = &ServiceName> {
    formerly_ours(inputs).filter(move |name| {
        let is_deleting = inputs.snapshot.services.get(*name).is_some_and(|service| service.deleting);
        let held = inputs.held.get(*name);
        is_deleting && held.is_some_and(|held| held.finalizer == Finalizer::Ours)
    })
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
    has_class(policy, service) && is_in_namespace(policy, name)
}

fn has_class(policy: &Policy, service: &Service) -> bool {
    match &service.class {
        Some(class) => *class == policy.class,
        None => policy.default_class,
    }
}

fn is_in_namespace(policy: &Policy, name: &ServiceName) -> bool {
    policy.namespaces.is_empty() || policy.namespaces.iter().any(|namespace| **namespace == *name.namespace)
}
