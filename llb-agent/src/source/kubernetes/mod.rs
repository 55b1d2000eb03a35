// SPDX-License-Identifier: Apache-2.0
//! Objects from a Kubernetes API: Services, EndpointSlices and Nodes, each first listed,
//! then watched.
//!
//! ```text
//! one watch task per kind (and namespace) --> converts --> its Store                   watches.rs, store.rs
//!    only what llb serves notifies the publisher                                       objects.rs
//!    all of them are made anew when the interest changes                               watching.rs
//! publisher: waits SETTLE for more changes --> whole snapshot --> watch channel        publish.rs
//! pools in a ConfigMap --> a part of the snapshot                                      pools.rs
//! ranges of ClusterIPs, read again and again --> a part of the snapshot                ranges.rs
//! probe: does the API answer, which cluster is it --> all watches list again           probe.rs
//! reload: kubeconfig and credentials --> the connection that all requests use          reload.rs, connect.rs
//! addresses of the API server --> no Service may have them                             resolve.rs
//! connections whose own address is gone --> end                                       connections.rs
//!
//! one look, without a source: API, clock, rights, kube-proxy                           inspect.rs, kube_proxy.rs
//! ```
//!
//! After a lost connection, an expired resource version or a restart of the API server
//! the watch task lists again. Its Store keeps the old objects until the new list is
//! complete, so what is served does not change. If the first lists do not arrive within
//! `PATIENCE`, the saved snapshot is published until they do (`fallback.rs`).

mod cause;
mod configuration;
mod connect;
mod connect_error;
mod connections;
mod fallback;
mod health;
mod inspect;
mod kube_proxy;
mod objects;
mod pools;
mod probe;
mod proxy;
mod publish;
mod ranges;
mod reload;
mod resolve;
mod store;
#[cfg(test)]
mod tests;
mod timeouts;
mod transport;
mod watches;
mod watching;

pub use configuration::Variables;
pub use connect::{Cluster, connect};
pub use connect_error::ConnectError;
pub use connections::ApiConnections;
pub use inspect::{Inspection, Right, inspect};
pub use kube_proxy::KubeProxy;
pub use proxy::ProxyVariables;
pub use publish::KubernetesSource;
pub use resolve::Reserved;
