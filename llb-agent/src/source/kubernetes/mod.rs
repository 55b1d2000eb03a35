// SPDX-License-Identifier: Apache-2.0
//! Objects from a Kubernetes API, by reflectors: a list, then a watch, of
//! Services, EndpointSlices and Nodes.
//!
//! ```text
//! watch task per kind (and namespace) --> its Store, and one shared Notify
//! publisher: Notify, then a short wait for more --> convert all --> watch channel
//! ```
//!
//! A lost connection, an expired resource version or a restarted API server
//! only mean that a task starts over; its Store keeps the old objects until the
//! new list is whole, so nothing that is served changes. A start without a
//! whole list within `PATIENCE` publishes the saved snapshot until there is one.

mod connect;
mod fallback;
mod health;
mod publish;
mod timeouts;
mod watches;

pub use connect::{Cluster, ConnectError, connect};
pub use publish::KubernetesSource;
