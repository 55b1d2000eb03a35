// SPDX-License-Identifier: Apache-2.0
//! The sources of objects: a Kubernetes API or manifest files. A source publishes whole
//! snapshots and never says what changed.
//!
//! Both sources keep Kubernetes objects as they are. The same pure code (`convert/`)
//! turns all of them into a [`Snapshot`](crate::model::Snapshot).

pub mod convert;
mod identity;
mod interest;
mod kept;
mod kubernetes;
mod manifests;
mod retries;
mod saved;

pub use identity::Identity;
pub use interest::{Interest, IsOurs, ParsePools, PoolMap};
pub use kubernetes::{
    ApiConnections, Cluster, ConnectError, Inspection, KubeProxy, KubernetesSource, ProxyVariables, Reserved,
    Right, Variables, connect, inspect,
};
pub use manifests::{ManifestError, ManifestSource, ParseError, snapshot_of};
pub use saved::{SavedError, SavedSnapshots};
