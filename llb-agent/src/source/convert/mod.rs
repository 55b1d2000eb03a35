// SPDX-License-Identifier: Apache-2.0
//! Converts Kubernetes objects to the model. Pure, shared by both sources, and the only
//! code that knows the types of the Kubernetes API. A value that makes no sense becomes a
//! [`Problem`]; the rest of the object and all other objects are used.

mod annotations;
mod endpoints;
mod memo;
mod node;
mod quote;
mod service;
mod terms;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service as ServiceObject};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use memo::Memo;
pub(super) use quote::quote;

use crate::model::{Endpoint, Problem, Service, ServiceName, Snapshot, bound};

type ConvertedService = (ServiceName, Arc<Service>, Vec<Problem>);
/// `None`: the slice belongs to no Service.
type ConvertedSlice = (Option<ServiceName>, Arc<[Endpoint]>, Vec<Problem>);

/// Converts all objects of a source. It remembers the results, so that an object that is
/// the same as last time is not converted again.
#[derive(Debug, Default)]
pub struct Converter {
    /// `--foreign-annotations`.
    foreign_annotations: bool,
    services: Memo<ServiceObject, ConvertedService>,
    slices: Memo<EndpointSlice, ConvertedSlice>,
}

impl Converter {
    /// `foreign_annotations`: whether annotations of MetalLB and kube-vip are honoured.
    pub fn new(foreign_annotations: bool) -> Self {
        Self { foreign_annotations, ..Self::default() }
    }

    /// Order and duplicates do not matter, with one exception: of two Services or Nodes with
    /// the same name the last one is used.
    pub fn snapshot(
        &mut self,
        services: Vec<Arc<ServiceObject>>,
        slices: Vec<Arc<EndpointSlice>>,
        nodes: &[Arc<Node>],
    ) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let foreign = self.foreign_annotations;
        let service_of = |object: &ServiceObject| service_of(object, foreign);
        for (name, service, problems) in self.services.convert(services, service_of) {
            snapshot.services.insert(name.clone(), Arc::clone(service));
            snapshot.problems.extend_from_slice(problems);
        }
        let mut merged: BTreeMap<ServiceName, Vec<&Arc<[Endpoint]>>> = BTreeMap::new();
        for (service, endpoints, problems) in self.slices.convert(slices, endpoints_of) {
            if let Some(service) = service {
                merged.entry(service.clone()).or_default().push(endpoints);
            }
            snapshot.problems.extend_from_slice(problems);
        }
        snapshot.endpoints = merged.into_iter().map(|(name, parts)| (name, merge(&parts))).collect();
        for object in nodes {
            let mut problems = Vec::new();
            let (name, node) = node::convert(object, &mut problems);
            bound(&mut problems);
            snapshot.problems.append(&mut problems);
            snapshot.nodes.insert(name, node);
        }
        snapshot.problems.sort();
        snapshot.problems.dedup();
        snapshot
    }
}

fn service_of(object: &ServiceObject, foreign_annotations: bool) -> ConvertedService {
    let mut problems = Vec::new();
    let (name, service) = service::convert(object, foreign_annotations, &mut problems);
    bound(&mut problems);
    (name, Arc::new(service), problems)
}

fn endpoints_of(object: &EndpointSlice) -> ConvertedSlice {
    let mut problems = Vec::new();
    let (service, endpoints) = endpoints::convert(object, &mut problems);
    bound(&mut problems);
    (service, sorted(endpoints), problems)
}

/// The endpoints of all slices of one Service.
fn merge(slices: &[&Arc<[Endpoint]>]) -> Arc<[Endpoint]> {
    match slices {
        [only] => Arc::clone(only),
        several => sorted(several.iter().flat_map(|slice| slice.iter().cloned()).collect()),
    }
}

fn sorted(mut endpoints: Vec<Endpoint>) -> Arc<[Endpoint]> {
    endpoints.sort();
    // While Kubernetes moves an endpoint to another slice, both slices may have it.
    endpoints.dedup();
    endpoints.into()
}
