// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a user's object. A problem is a value: llb reports it and continues.

use std::fmt;

use serde::{Serialize, Serializer};

use super::service::ServiceName;

/// The object that a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A Service; its problems also become Events.
    Service(ServiceName),
    /// Any other Kubernetes object, as `Kind namespace/name`.
    Object(String),
    /// A manifest file.
    File(String),
    /// A link device.
    Link(String),
    /// The connection to a source.
    Source(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Object(text) | Self::File(text) | Self::Source(text) => f.write_str(text),
            Self::Link(name) => write!(f, "link {name}"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The kind of a problem: its metric label and machine-readable part. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ProblemReason {
    /// A field or annotation has a value that llb cannot use.
    InvalidValue,
    /// A kind, field or annotation has a name that llb does not know, and is ignored.
    UnknownName,
    /// An annotation of another load balancer asks for something that llb does not do.
    ForeignAnnotation,
    /// A port's protocol is neither TCP nor UDP.
    UnsupportedProtocol,
    /// Another Service already has this VIP, port and protocol.
    FrontendCollision,
    /// Every address of every pool is taken.
    PoolExhausted,
    /// The pool is not for this Service's namespace, or the Service names no pool and
    /// no pool is for such Services.
    PoolNotAllowed,
    /// The address belongs to somebody else, or the operator has not opened it to Services.
    AddressNotAllowed,
    /// Another Service has the VIP, and the two do not share it.
    VipNotShared,
    /// The port of the machine's own address is reserved for the machine.
    PortNotAllowed,
    /// There is no pool or link address of a family that the Service needs.
    NoAddressOfFamily,
    /// No Node is eligible.
    NoEligibleNodes,
    /// The Service has no usable backend.
    NoBackends,
    /// `--backends nodes`, and the port has no nodePort.
    NoNodePort,
    /// The Service wants affinity, but kube-proxy on the Nodes sees llb as the only client.
    AffinityAtNodes,
    /// The VIP is in no subnet of any link device.
    NoSubnet,
    /// Another host on the segment has the VIP or claims it.
    VipConflict,
    /// No link device exists now.
    LinkMissing,
    /// A manifest could not be read or parsed.
    InvalidManifest,
    /// The Kubernetes API does not answer or refuses access.
    SourceUnavailable,
    /// The Kubernetes API does not answer, and the saved snapshot cannot be used.
    SavedSnapshotRefused,
    /// An action failed and will be retried.
    ActionFailed,
}

/// What is wrong with an object, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object.
    pub subject: Subject,
    /// Its kind.
    pub reason: ProblemReason,
    /// One sentence for a person.
    pub message: String,
}

impl Problem {
    /// A problem of a Service.
    pub fn of_service(name: &ServiceName, reason: ProblemReason, message: impl Into<String>) -> Self {
        Self { subject: Subject::Service(name.clone()), reason, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.subject, self.reason, self.message)
    }
}
