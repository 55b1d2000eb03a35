// SPDX-License-Identifier: Apache-2.0
//! The desired and the observed state.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::forwarding::{Frontend, FrontendStatus, Rule};
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
    /// The addresses that llb should add, with their prefix length.
    pub addresses: BTreeMap<AddressKey, u8>,
    /// What the status of each of our Services should say when its frontends are served.
    /// An empty status is to be cleared.
    pub statuses: BTreeMap<ServiceName, PublishedStatus>,
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
}
