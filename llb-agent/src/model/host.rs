// SPDX-License-Identifier: Apache-2.0
//! What this machine itself needs, and no Service may take; and which Pods it can't reach.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};

/// The machine apart from its link devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Addresses that can't be VIPs, and what each one is.
    pub reserved: BTreeMap<IpAddr, ReservedFor>,
    /// `net.ipv4.ip_local_port_range`: the source ports of the machine's own connections. `None`: not known.
    pub ephemeral_ports: Option<RangeInclusive<u16>>,
    /// Pods to which the machine has no route, or only its default route. Only those are looked for that no
    /// nodePort leads to.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unrouted_pods: BTreeSet<IpAddr>,
    /// The markers that keepalived has put on `lo`: the shares of a group that are this box's.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub markers: BTreeSet<Ipv4Addr>,
    /// If VIPs are routed: the link devices that are missing or have no carrier.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub silent_links: BTreeSet<String>,
}

/// Why the machine needs an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReservedFor {
    /// The Kubernetes API.
    ApiServer,
    /// The proxy to the Kubernetes API.
    ApiProxy,
    /// A route of the machine leads through it.
    Gateway,
    /// A name server in `/etc/resolv.conf`.
    Resolver,
    /// It is on this link, which is no link device.
    Link(String),
    /// It is at the other end of this point-to-point link.
    Peer(String),
}

impl fmt::Display for ReservedFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiServer => f.write_str("the address of the Kubernetes API"),
            Self::ApiProxy => f.write_str("the address of the proxy to the Kubernetes API"),
            Self::Gateway => f.write_str("a gateway of this machine"),
            Self::Resolver => f.write_str("a name server of this machine (/etc/resolv.conf)"),
            Self::Peer(name) => write!(f, "the address at the other end of {name}"),
            Self::Link(name) => write!(f, "an address of this machine on {name}, which is no --linkdevice"),
        }
    }
}

impl Serialize for ReservedFor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
