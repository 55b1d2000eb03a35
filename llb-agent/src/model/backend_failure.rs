// SPDX-License-Identifier: Apache-2.0
//! Backends that a plane has found dead: why, and since when.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Instant;

use super::forwarding::{Backend, Frontend};

/// The backends of each frontend that the planes have found dead. Frontends without any are left out.
pub type FailedBackends = BTreeMap<Frontend, BTreeMap<Backend, BackendFailure>>;

/// A backend failed, and has not answered since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendFailure {
    /// How it failed last.
    pub why: FailureReason,
    /// When it failed first.
    pub since: Instant,
}

/// How a backend failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// It refused a connection: by a reset, or by an ICMP error that says that nothing listens.
    Refused,
    /// It did not answer a connection.
    TimedOut,
    /// Nobody answers ARP or neighbour discovery for it, or for the router that leads to it.
    NoNeighbour,
    /// There is no route to it.
    NoRoute,
    /// The kernel or a router says that it can't be reached.
    HostUnreachable,
    /// Any other error of its socket.
    Other(io::ErrorKind),
}

impl FailureReason {
    /// A short name, one of a closed list.
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::NoNeighbour => "no_neighbour",
            Self::NoRoute => "no_route",
            Self::HostUnreachable => "host_unreachable",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("it refused a connection"),
            Self::TimedOut => f.write_str("it did not answer a connection in time"),
            Self::NoNeighbour => f.write_str("no neighbour: nobody answers ARP or neighbour discovery"),
            Self::NoRoute => f.write_str("there is no route to it"),
            Self::HostUnreachable => f.write_str("host unreachable"),
            Self::Other(kind) => kind.fmt(f),
        }
    }
}

/// From the error of a connection to the backend.
impl From<&io::Error> for FailureReason {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable => Self::HostUnreachable,
            io::ErrorKind::NetworkUnreachable => Self::NoRoute,
            kind => Self::Other(kind),
        }
    }
}
