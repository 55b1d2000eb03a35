// SPDX-License-Identifier: Apache-2.0
//! Publishes what was done: the status of Services, and Events about them.
//!
//! ```text
//!   kubernetes.rs   to a Kubernetes API
//!     written.rs    what was written and is not seen in the watch yet
//!     queue.rs      Events that wait          events.rs   sends them
//!     lease/        which agent of a group writes
//!   file.rs         to a file, with manifests
//! ```

mod events;
pub mod fake;
pub mod file;
pub mod kubernetes;
mod lease;
mod queue;
mod written;

use std::collections::BTreeMap;
use std::future::Future;

use prometheus_client::registry::Registry;

use crate::kube_error::KubeError;
use crate::model::{Conditions, Problem, PublishedStatus, ServiceName, Snapshot, StatusWriter};

/// Writes statuses and Events. Cheap to clone: each write runs in a task of its own, so that
/// a slow API server does not delay the reconciler.
pub trait StatusSink: Clone + Send + Sync + 'static {
    /// The statuses as far as they are known: those in the snapshot, and those that were
    /// written since and are not in the snapshot yet.
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus>;

    /// llb's conditions on Services, as [`observe`](StatusSink::observe) has the statuses; `None` if this
    /// sink has none.
    fn conditions(&self, _snapshot: &Snapshot) -> Option<BTreeMap<ServiceName, Conditions>> {
        None
    }

    /// Writes the status of a Service; an empty status clears it. It is not an error if the
    /// Service is gone. In both cases `observe` then returns the ordered status until the
    /// Service changes in the snapshot.
    ///
    /// # Errors
    /// The status is not written.
    fn write(&self, order: StatusOrder) -> impl Future<Output = Result<Effect, StatusError>> + Send;

    /// Reports an Event about a Service, beside the caller. If too many wait, the oldest are lost.
    fn record(&self, event: Event);

    /// Whether this agent writes statuses and Events, or another one of its group.
    fn writer(&self) -> StatusWriter {
        StatusWriter::default()
    }

    /// Waits until [`writer`](StatusSink::writer) or [`problem`](StatusSink::problem) changes. Cancel safe.
    fn writer_changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Why it can't be found out who writes.
    fn problem(&self) -> Option<Problem> {
        None
    }

    /// Adds its metrics.
    fn register(&self, _registry: &mut Registry) {}
}

/// A status to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusOrder {
    /// The Service.
    pub service: ServiceName,
    /// Its `metadata.uid`, so that another Service with the same name is not written.
    pub uid: String,
    /// The `resourceVersion` of the Service that the decision is based on.
    pub revision: String,
    /// The status to write.
    pub status: PublishedStatus,
    /// The conditions to write; those that are missing are removed. `None`: they stay as they are.
    pub conditions: Option<Conditions>,
    /// Whether the write removes our finalizer.
    pub removes_finalizer: bool,
}

/// The result of a write that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The status is written.
    Done,
    /// The Service is gone, so there is nothing to write.
    Gone,
}

/// One Event about a Service. Reasons are those of the cloud service controller (`k8s.io/cloud-provider`, `controllers/service`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// The Service.
    pub service: ServiceName,
    /// Its `metadata.uid`.
    pub uid: String,
    /// The type is Warning, else Normal.
    pub warning: bool,
    /// `EnsuredLoadBalancer` and the like.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// A status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// RBAC or an admission controller forbids it.
    #[error(
        "not allowed to patch the status of Service {service}: {answer}; if RBAC forbids it, grant llb's user the verb patch on services/status (`llb-agent rbac` prints all rights)"
    )]
    Forbidden {
        /// The Service.
        service: ServiceName,
        /// The API server's answer.
        answer: String,
    },
    /// The API server refused for another reason or could not be reached.
    #[error("cannot write the status of Service {service}")]
    Api {
        /// The Service.
        service: ServiceName,
        /// Why.
        #[source]
        source: KubeError,
    },
    /// The API server did not answer in time.
    #[error("cannot write the status of Service {service}: the API server did not answer in time")]
    TimedOut {
        /// The Service.
        service: ServiceName,
    },
    /// Another agent has become the one that writes.
    #[error("the status of Service {service} is not written: this agent has no Lease now")]
    NotWriter {
        /// The Service.
        service: ServiceName,
    },
    /// The status file cannot be written.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A failure that the simulation asked for.
    #[error("failed on purpose")]
    Injected,
}
