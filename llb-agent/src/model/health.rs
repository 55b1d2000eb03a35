// SPDX-License-Identifier: Apache-2.0
//! Active health checks: what is asked, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// How llb asks a backend whether it works.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthCheck {
    /// A TCP connection is accepted.
    Tcp,
    /// `GET` of this path, which begins with `/`, is answered with a status from 200 to 399.
    Http(Arc<str>),
    /// The gRPC health service says `SERVING` for this service; an empty name means the server as a whole.
    Grpc(Arc<str>),
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Http(path) => write!(f, "http:{path}"),
            Self::Grpc(service) if service.is_empty() => f.write_str("grpc"),
            Self::Grpc(service) => write!(f, "grpc:{service}"),
        }
    }
}

/// One question that is asked again and again. Services that ask the same share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// Who is asked.
    pub address: SocketAddr,
    /// How.
    pub how: HealthCheck,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.how, self.address)
    }
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeds.
    Healthy,
    /// It fails.
    Unhealthy(Failure),
}

/// Why a check fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// There is no connection.
    NoConnection,
    /// There is a connection, but no proper answer in time.
    NoAnswer,
    /// The answer has this HTTP status.
    Status(u16),
    /// The answer has this gRPC status: 5, it does not know the service; 12, it has no health service.
    Grpc(u16),
    /// The gRPC health service says something else than `SERVING`.
    NotServing,
}

impl Failure {
    /// Whether the backend itself says so. That says more than silence.
    pub fn is_said(self) -> bool {
        match self {
            Self::NoConnection | Self::NoAnswer => false,
            Self::Status(_) | Self::Grpc(_) | Self::NotServing => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConnection => f.write_str("no connection"),
            Self::NoAnswer => f.write_str("no answer"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(5) => f.write_str("gRPC status 5: the backend does not know this service name"),
            Self::Grpc(12) => f.write_str("gRPC status 12: the backend has no gRPC health service"),
            Self::Grpc(status) => write!(f, "gRPC status {status}"),
            Self::NotServing => f.write_str("not serving"),
        }
    }
}

/// The checks that have a verdict. A check without one has not ended yet.
pub type Verdicts = BTreeMap<Check, Verdict>;

/// Why a backend gets no new connections, although the API says that it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The check that fails.
    pub check: Check,
    /// How it fails.
    pub failure: Failure,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "health check {}: {}", self.check, self.failure)
    }
}

impl Serialize for LeftOut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
