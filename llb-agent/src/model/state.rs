// SPDX-License-Identifier: Apache-2.0
//! Desired and observed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{Frontend, FrontendStatus, PublishedStatus, Rule, ServiceName};

/// A VIP on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressKey {
    /// The link's name.
    pub link: String,
    /// The VIP.
    pub address: IpAddr,
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.address, self.link)
    }
}

impl Serialize for AddressKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What should be, computed whole from one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// What the data planes serve.
    pub frontends: BTreeMap<Frontend, Arc<Rule>>,
    /// Frontends that stay as they are, whatever their rules: those that the packet plane serves
    /// on when the agent ends.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub kept: BTreeSet<Frontend>,
    /// The addresses that llb adds, with their prefix length in bits.
    pub addresses: BTreeMap<AddressKey, u8>,
    /// What the status of each Service that is ours should say once its
    /// frontends are up. An empty one means: clear it.
    pub statuses: BTreeMap<ServiceName, PublishedStatus>,
}

impl State {
    /// Whether `frontend` should be there.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.frontends.contains_key(frontend) || self.kept.contains(frontend)
    }
}

/// What is, as read back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// What the data planes have.
    pub frontends: BTreeMap<Frontend, FrontendStatus>,
    /// The addresses that llb added, with their prefix length in bits.
    pub addresses: BTreeMap<AddressKey, u8>,
    /// What the status of every Service says.
    pub statuses: BTreeMap<ServiceName, PublishedStatus>,
}
