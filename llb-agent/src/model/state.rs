// SPDX-License-Identifier: Apache-2.0
//! The desired and the observed state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::conditions::Conditions;
use super::forwarding::{Backend, Frontend, FrontendStatus, Rule};
use super::health::{Check, LeftOut};
use super::pool::PoolUsage;
use super::service::{PublishedStatus, ServiceName};

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

/// The desired state, computed as a whole from one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// What the data planes should serve.
    pub frontends: BTreeMap<Frontend, Arc<Rule>>,
    /// Frontends that stay as they are, whatever their rules: the packet plane goes on serving
    /// them when the agent ends.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub kept: BTreeSet<Frontend>,
    /// The frontends on the machine's own addresses. No other program may bind their ports.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub on_own_addresses: BTreeSet<Frontend>,
    /// The addresses that llb should add, with their prefix length.
    pub addresses: BTreeMap<AddressKey, u8>,
    /// The addresses that other boxes of the group have. They are served here as well, so that they only have to be
    /// added when this box gets their share.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub elsewhere: BTreeMap<AddressKey, u8>,
    /// What the status of each of our Services should say when its frontends are served.
    /// An empty status is to be cleared.
    pub statuses: BTreeMap<ServiceName, PublishedStatus>,
    /// Services that are being deleted. When their VIPs are gone, one write removes finalizer and status.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub leaving: BTreeSet<ServiceName>,
    /// How much of each pool Services use.
    pub pools: Vec<PoolUsage>,
    /// Backends that fail a health check, and get no new connections as long as others do not.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unhealthy: BTreeMap<Frontend, BTreeMap<Backend, LeftOut>>,
    /// What to ask the backends.
    #[serde(skip)]
    pub checks: BTreeSet<Check>,
}

impl State {
    /// Whether `frontend` should be there.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.frontends.contains_key(frontend) || self.kept.contains(frontend)
    }
}

/// The observed state, as read back from the world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// What the data planes serve.
    pub frontends: BTreeMap<Frontend, FrontendStatus>,
    /// The addresses that llb added, with their prefix length.
    pub addresses: BTreeMap<AddressKey, u8>,
    /// What the status of every Service says.
    pub statuses: BTreeMap<ServiceName, PublishedStatus>,
    /// llb's conditions on Services; `None` where there are none, as without a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<BTreeMap<ServiceName, Conditions>>,
    /// The wanted VIPs that are not on their links, and that no other host has: probes have just shown it.
    pub free: BTreeSet<IpAddr>,
    /// The wanted VIPs that are not on their links because another host has them, and how many probes
    /// in a row have shown it.
    pub taken: BTreeMap<IpAddr, u32>,
    /// The link devices that get no VIP yet: the data plane does not serve there.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unready_links: BTreeSet<String>,
}
