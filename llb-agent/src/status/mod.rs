// SPDX-License-Identifier: Apache-2.0
//! The seam to where the outcome is told: the status of a Service and the
//! Events about it.

pub mod fake;
pub mod file;
pub mod kubernetes;

use std::collections::BTreeMap;
use std::future::Future;

use crate::kube_error::KubeError;
use crate::model::{PublishedStatus, ServiceName, Snapshot};

/// Writes statuses and Events. Cheap to clone: calls run beside the
/// reconciler, so that a slow API server holds nothing up.
pub trait StatusSink: Clone + Send + Sync + 'static {
    /// What the statuses say now, as far as is known: the snapshot's word,
    /// and on top of it what was written since and is not yet in the snapshot.
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus>;

    /// Writes the status of a Service; an empty one clears it. A Service that
    /// is gone by now is no error. Either way `observe` then says what was
    /// ordered, until the snapshot has news of the Service.
    ///
    /// # Errors
    /// The status is as it was.
    fn write(&self, order: StatusOrder) -> impl Future<Output = Result<Effect, StatusError>> + Send;

    /// Tells about a Service; best effort.
    fn record(&self, event: Event) -> impl Future<Output = ()> + Send;
}

/// A status to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusOrder {
    /// Whose.
    pub service: ServiceName,
    /// Its `metadata.uid`; another Service of this name is not written.
    pub uid: String,
    /// The `resourceVersion` that the decision was made on.
    pub revision: String,
    /// What.
    pub status: PublishedStatus,
}

/// What came of an order that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is as ordered.
    Done,
    /// The Service is gone, so there is nobody to tell.
    Gone,
}

/// One Event about a Service, with the reasons of the cloud service
/// controller (`k8s.io/cloud-provider`, `controllers/service`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// About which Service.
    pub service: ServiceName,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Warning, or Normal.
    pub warning: bool,
    /// `EnsuredLoadBalancer` and the like.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// A status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// RBAC, or an admission controller.
    #[error(
        "not allowed to patch the status of Service {service}: {answer}; if the verb is what is missing, grant patch on services/status to llb's user"
    )]
    Forbidden {
        /// Whose.
        service: ServiceName,
        /// The API server's word.
        answer: String,
    },
    /// Anything else that the API says, or that it says nothing.
    #[error("cannot write the status of Service {service}")]
    Api {
        /// Whose.
        service: ServiceName,
        /// The client's word.
        #[source]
        source: KubeError,
    },
    /// No answer in time.
    #[error("the API server did not answer while the status of Service {service} was written")]
    TimedOut {
        /// Whose.
        service: ServiceName,
    },
    /// The status file.
    #[error("cannot write {path}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// For the simulation.
    #[error("failed on purpose")]
    Injected,
}
