// SPDX-License-Identifier: Apache-2.0
//! Objects from a Kubernetes API: Services, EndpointSlices and Nodes, each first listed,
//! then watched.
//!
//! ```text
//! one watch task per kind (and namespace) --> its Store; all notify the publisher    watches.rs
//! publisher: waits SETTLE for more changes --> converts all --> watch channel        publish.rs
//! ```
//!
//! After a lost connection, an expired resource version or a restart of the API server
//! the watch task lists again. Its Store keeps the old objects until the new list is
//! complete, so what is served does not change. If the first lists do not arrive within
//! `PATIENCE`, the saved snapshot is published until they do (`fallback.rs`).

mod cause;
mod connect;
mod fallback;
mod health;
mod publish;
mod timeouts;
mod watches;

pub use connect::{Cluster, ConnectError, Variables, connect};
pub use publish::KubernetesSource;
