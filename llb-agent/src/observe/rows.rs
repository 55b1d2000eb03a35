// SPDX-License-Identifier: Apache-2.0
//! The rows of the HTTP API, which `llb-agent list` reads too. Docs: docs/reference/api.md.
//!
//! Times are those of the agent's clock, in RFC 3339. A field is only ever added; one that changes its meaning gets
//! another name, and another version of the API.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::traffic::Traffic;

/// `GET /api/v1/services`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// The number of the last change: `GET /api/v1/changes?after=` this number has what follows.
    pub sequence: u64,
    /// What is told may be old: the agent can't read its links now, or waits for its first snapshot.
    pub stale: bool,
    /// By namespace and name.
    pub services: Vec<ServiceRow>,
}

/// A Service that llb serves, is to serve, or has a problem with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// By VIP, port and protocol.
    pub frontends: Vec<FrontendRow>,
    /// What is wrong with the Service now.
    pub problems: Vec<ProblemRow>,
}

/// A VIP with a port and a protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontendRow {
    /// `192.0.2.100:80/TCP`, `[2001:db8::1]:53/UDP`.
    pub frontend: String,
    /// Whether it serves.
    pub standing: Standing,
    /// The link that has the VIP now.
    pub link: Option<String>,
    /// Whether the VIP is in the Service's status.
    pub published: bool,
    /// `packet`, `sockmap` or `userspace`; none if it is not served yet.
    pub plane: Option<String>,
    /// The packet plane's mode: `nat` or `dsr`.
    pub mode: Option<String>,
    /// Why this plane and mode.
    pub why: String,
    /// Its traffic; none if nothing is counted for it yet.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// By address.
    pub backends: Vec<BackendRow>,
}

/// Whether a frontend serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is to be served and is not yet.
    Pending,
    /// New connections are accepted.
    Serving,
    /// Old connections may finish; new ones are not accepted.
    Draining,
}

/// A backend of a frontend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendRow {
    /// Address and port.
    pub backend: String,
    /// `up`, `dead`, `unhealthy`, `draining`, `waiting`, `unreachable` or `removed`.
    pub state: String,
    /// Since when it is in this state, as far as this agent knows: it has seen no earlier time than its own start.
    pub since: Option<Timestamp>,
    /// Why it is not `up`.
    pub why: Option<String>,
    /// Its share of new connections in relation to the others; 0: it gets none.
    pub weight: u16,
    /// Flows of the packet plane that it has, those that are closed and not yet swept among them.
    pub flows: Option<u64>,
    /// Its traffic from this frontend; none if nothing is counted for it yet.
    #[serde(default)]
    pub traffic: Option<Traffic>,
}

impl BackendRow {
    /// Whether it gets new connections.
    pub fn is_up(&self) -> bool {
        self.state == "up"
    }
}

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemRow {
    /// One of the reasons in docs/reference/problems.md.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// `GET /api/v1/changes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The number of the last change; 0: there is none.
    pub sequence: u64,
    /// When the agent began to keep changes. A different time means a new agent, whose numbers begin at 1 again.
    pub started: Timestamp,
    /// Changes between those that were asked for and the first one here are no longer kept.
    pub lost: bool,
    /// The oldest first.
    pub changes: Vec<Change>,
}

/// Something that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Grows by one from change to change.
    pub sequence: u64,
    /// When the agent saw it.
    pub time: Timestamp,
    /// What it is about: `Service default/web`, `link eth0`.
    pub object: String,
    /// What is new.
    pub what: String,
    /// How often the same has happened within a minute; `time` and `sequence` are those of the last time.
    pub times: u32,
}
