// SPDX-License-Identifier: Apache-2.0
//! Converts Kubernetes objects to the model. Pure, shared by both sources, and the only
//! code that knows the types of the Kubernetes API. A value that makes no sense becomes a
//! [`Problem`]; the rest of the object and all other objects are used.

mod annotations;
mod endpoints;
mod memo;
mod node;
mod others;
mod quote;
mod service;
mod terms;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node as NodeObject, Service as ServiceObject};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use memo::Memo;
pub(super) use others::reduced;
pub(super) use quote::quote;

use crate::model::{Endpoint, Node, Problem, Service, ServiceName, Snapshot, bound};

/// What a Service was converted to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConvertedService {
    pub(super) name: ServiceName,
    pub(super) service: Arc<Service>,
    pub(super) problems: Vec<Problem>,
}

/// What an EndpointSlice was converted to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConvertedSlice {
    /// `None`: the slice belongs to no Service.
    pub(super) service: Option<ServiceName>,
    pub(super) endpoints: Arc<[Endpoint]>,
    pub(super) problems: Vec<Problem>,
}

/// What a Node was converted to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConvertedNode {
    pub(super) name: String,
    pub(super) node: Node,
    pub(super) problems: Vec<Problem>,
}

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
        nodes: &[Arc<NodeObject>],
    ) -> Snapshot {
        let foreign = self.foreign_annotations;
        let services = self.services.convert(services, |object| service_of(object, foreign));
        let slices = self.slices.convert(slices, slice_of);
        assemble(services, slices, nodes.iter().map(|object| node_of(object)))
    }
}

/// The snapshot of converted objects, as [`Converter::snapshot`] says.
pub(super) fn assemble<'a>(
    services: impl Iterator<Item = &'a ConvertedService>,
    slices: impl Iterator<Item = &'a ConvertedSlice>,
    nodes: impl Iterator<Item = ConvertedNode>,
) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for ConvertedService { name, service, problems } in services {
        snapshot.services.insert(name.clone(), Arc::clone(service));
        snapshot.problems.extend_from_slice(problems);
    }
    let mut merged: BTreeMap<ServiceName, Vec<&Arc<[Endpoint]>>> = BTreeMap::new();
    for ConvertedSlice { service, endpoints, problems } in slices {
        if let Some(service) = service {
            merged.entry(service.clone()).or_default().push(endpoints);
        }
        snapshot.problems.extend_from_slice(problems);
    }
    snapshot.endpoints = merged.into_iter().map(|(name, parts)| (name, merge(&parts))).collect();
    for ConvertedNode { name, node, mut problems } in nodes {
        snapshot.problems.append(&mut problems);
        snapshot.nodes.insert(name, node);
    }
    snapshot.problems.sort();
    snapshot.problems.dedup();
    snapshot
}

pub(super) fn service_of(object: &ServiceObject, foreign_annotations: bool) -> ConvertedService {
    let mut problems = Vec::new();
    let (name, service) = service::convert(object, foreign_annotations, &mut problems);
    bound(&mut problems);
    ConvertedService { name, service: Arc::new(service), problems }
}

pub(super) fn slice_of(object: &EndpointSlice) -> ConvertedSlice {
    let mut problems = Vec::new();
    let (service, endpoints) = endpoints::convert(object, &mut problems);
    bound(&mut problems);
    ConvertedSlice { service, endpoints: sorted(endpoints), problems }
}

pub(super) fn node_of(object: &NodeObject) -> ConvertedNode {
    let mut problems = Vec::new();
    let (name, node) = node::convert(object, &mut problems);
    bound(&mut problems);
    ConvertedNode { name, node, problems }
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
