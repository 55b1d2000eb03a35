//! Kubernetes objects to the model. Pure, shared by both sources, and the only
//! place that knows the shapes of the Kubernetes API. What makes no sense
//! becomes a [`Problem`](crate::model::Problem); the rest of the object, and every other object, goes on.

mod endpoints;
mod node;
mod service;
mod terms;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::Snapshot;

/// All objects of a source; order and duplicates do not matter, except that
/// of two Services or Nodes with one name the last one counts.
pub fn snapshot<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    nodes: impl IntoIterator<Item = &'a Node>,
) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for object in services {
        let (name, service) = service::convert(object, &mut snapshot.problems);
        snapshot.services.insert(name, service);
    }
    for object in slices {
        endpoints::merge(object, &mut snapshot.endpoints, &mut snapshot.problems);
    }
    for endpoints in snapshot.endpoints.values_mut() {
        // One endpoint may be in two slices for a moment while it moves.
        endpoints.sort();
        endpoints.dedup();
    }
    for object in nodes {
        let (name, node) = node::convert(object, &mut snapshot.problems);
        snapshot.nodes.insert(name, node);
    }
    snapshot.problems.sort();
    snapshot.problems.dedup();
    snapshot
}

/// A text of a user's, cut to what fits into a message.
fn shown(text: &str) -> String {
    /// Longer ones make a log line and an Event unreadable.
    const LONGEST: usize = 80;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
