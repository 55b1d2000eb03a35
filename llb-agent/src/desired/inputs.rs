// SPDX-License-Identifier: Apache-2.0
//! Everything that the desired state depends on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Policy;
use crate::model::{Facts, Holding, PublishedStatus, ServiceName, Snapshot, Verdicts};

/// What Services have now: the published status, or the one that an earlier round
/// decided and that is not published yet. Services keep what they have.
pub type Held = BTreeMap<ServiceName, PublishedStatus>;

/// Everything that the desired state depends on. The same inputs give the same state.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The objects from the source.
    pub snapshot: &'a Snapshot,
    /// The links of this machine.
    pub facts: &'a Facts,
    /// The configuration.
    pub policy: &'a Policy,
    /// What Services have now.
    pub held: &'a Held,
    /// The addresses that no Service has since a moment ago, with the Service that had each one.
    pub resting: &'a BTreeMap<IpAddr, ServiceName>,
    /// What came of the health checks.
    pub verdicts: &'a Verdicts,
    /// Which VIPs may be on the links of this machine; other boxes of its group have the others.
    pub holding: &'a Holding,
}
