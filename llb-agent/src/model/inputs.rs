// SPDX-License-Identifier: Apache-2.0
//! Everything that a decision may look at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address::{Family, Port, Protocol};
use super::problem::Problem;
use super::service::{Service, ServiceName};

/// All objects of a source at one moment. What did not change since the snapshot
/// before is shared with it, so that neither comparing nor keeping both costs much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Services of every type (a type change must be seen).
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// All EndpointSlices of a Service, merged: sorted, each endpoint once.
    pub endpoints: BTreeMap<ServiceName, Arc<[Endpoint]>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// What could not be understood. Not saved: who reads it again says it again.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

/// What a source says at one moment.
#[derive(Clone, Debug, Default)]
pub struct SourceReport {
    /// `None` until everything was read once; the last good one from then on.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What keeps the source from reading on.
    pub problems: Vec<Problem>,
}

/// One address of one entry of an EndpointSlice, for one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port's name in the Service; `None` for the nameless port.
    pub port_name: Option<String>,
    /// The port behind the address (`targetPort` resolved).
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// `nodeName`.
    pub node: Option<String>,
    /// `conditions.ready`; absent counts as true.
    pub ready: bool,
    /// `conditions.serving`; absent counts as ready.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
}

/// A Node, cut to the parts that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// All labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Label `node.kubernetes.io/exclude-from-external-load-balancers`, or
    /// taint `ToBeDeletedByClusterAutoscaler`.
    pub excluded: bool,
    /// `status.addresses` of type InternalIP, in order.
    pub internal: Vec<IpAddr>,
    /// `status.addresses` of type ExternalIP, in order.
    pub external: Vec<IpAddr>,
    /// `spec.externalID` where it is an address (clusters before 1.11).
    pub external_id: Option<IpAddr>,
}

/// Probed properties of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The link devices, in the order of the command line; a missing one is absent.
    pub links: Vec<Link>,
}

impl Facts {
    /// The machine as it would be without llb.
    pub fn without_ours(&self) -> Self {
        let foreign = |link: &Link| Link {
            name: link.name.clone(),
            addresses: link.addresses.iter().filter(|known| !known.ours).cloned().collect(),
        };
        Self { links: self.links.iter().map(foreign).collect() }
    }
}

/// A network interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// All addresses on it, in the kernel's order, llb's own included.
    pub addresses: Vec<LinkAddress>,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkAddress {
    /// Address and prefix length.
    pub net: IpNet,
    /// llb added it.
    pub ours: bool,
    /// Usable as the link's own address for others to reach: global scope,
    /// not secondary, not temporary, not deprecated, not tentative.
    pub primary: bool,
}

impl Link {
    /// The link's own first address of `family`: what is served when a Service
    /// asks for no VIP and there is no pool.
    pub fn primary_address(&self, family: Family) -> Option<IpAddr> {
        self.addresses
            .iter()
            .filter(|address| address.primary && !address.ours)
            .map(|address| address.net.addr())
            .find(|&address| Family::of(address) == family)
    }

    /// The prefix length of the link's own address whose subnet holds `vip`.
    pub fn prefix_length_for(&self, vip: IpAddr) -> Option<u8> {
        self.addresses
            .iter()
            .filter(|address| !address.ours && address.net.contains(&vip))
            .map(|address| address.net.prefix_len())
            .max()
    }

    /// Whether somebody else than llb put `address` here.
    pub fn has_foreign(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|known| !known.ours && known.net.addr() == address)
    }
}
