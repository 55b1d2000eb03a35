// SPDX-License-Identifier: Apache-2.0
//! The seam to where objects come from. A source publishes whole snapshots
//! and never says what changed.
//!
//! Both sources keep Kubernetes objects as they are and turn all of them into
//! a [`Snapshot`](crate::model::Snapshot) by the same pure code (`convert/`).

pub mod convert;
mod kubernetes;
mod manifests;
mod retries;
mod saved;

pub use kubernetes::{Cluster, ConnectError, KubernetesSource, connect};
pub use manifests::{ManifestError, ManifestSource, ParseError, snapshot_of};
pub use saved::{SavedError, SavedSnapshots};
