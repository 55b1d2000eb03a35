// SPDX-License-Identifier: Apache-2.0
//! What decisions are based on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address::{Family, Port, Protocol};
use super::cluster_pools::ClusterPools;
use super::host::Host;
use super::problem::Problem;
use super::service::{Service, ServiceName};

/// All objects of a source at one moment. Objects that did not change are shared with
/// the snapshot before, so that it costs little to compare the two or to keep both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Services of every type, so that a change of the type is noticed.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// The endpoints of all EndpointSlices of each Service: sorted, each endpoint once.
    pub endpoints: BTreeMap<ServiceName, Arc<[Endpoint]>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The ranges that ClusterIPs are taken from, as far as the API shows them.
    #[serde(default)]
    pub service_ranges: Vec<IpNet>,
    /// The pools of a ConfigMap, if there is one for them.
    #[serde(default)]
    pub pools: Option<ClusterPools>,
    /// Objects or fields that could not be understood. Not saved with the snapshot.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

/// What a source reports at one moment.
#[derive(Clone, Debug, Default)]
pub struct SourceReport {
    /// `None` until all objects have been read once. Then always the last good snapshot.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why the source cannot read its objects now.
    pub problems: Vec<Problem>,
    /// The number of the interest by which the snapshot was made (`source::Interest`).
    pub interest: u64,
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
    /// `conditions.serving`; if it is absent, the same as `ready`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
}

/// A Node, reduced to the parts that decisions need.
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
    /// `spec.podCIDRs`: the addresses of its Pods.
    pub pod_ranges: Vec<IpNet>,
    /// `spec.externalID` if it is an address (clusters before 1.11).
    pub external_id: Option<IpAddr>,
}

/// What was found on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The link devices in the order of the command line, without those that do not exist now.
    pub links: Vec<Link>,
    /// The link of routed VIPs, if VIPs are routed and it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_link: Option<Link>,
    /// What the machine itself needs.
    pub host: Host,
}

impl Facts {
    /// The facts without the addresses that llb added.
    pub fn without_ours(&self) -> Self {
        let foreign = |link: &Link| Link {
            name: link.name.clone(),
            addresses: link.addresses.iter().filter(|known| !known.ours).cloned().collect(),
        };
        Self {
            links: self.links.iter().map(foreign).collect(),
            vip_link: self.vip_link.as_ref().map(foreign),
            host: self.host.clone(),
        }
    }

    /// All links that can have VIPs.
    pub fn all_links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().chain(&self.vip_link)
    }
}

/// A network interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// All addresses on it in the kernel's order, also those that llb added.
    pub addresses: Vec<LinkAddress>,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkAddress {
    /// Address and prefix length.
    pub net: IpNet,
    /// llb added it.
    pub ours: bool,
    /// Other hosts can use it to reach this machine: of global scope, and not secondary,
    /// temporary, deprecated or tentative.
    pub primary: bool,
}

impl Link {
    /// The link's first own address of `family`. A Service gets it if it asks for no VIP
    /// and there is no pool.
    pub fn primary_address(&self, family: Family) -> Option<IpAddr> {
        self.addresses
            .iter()
            .filter(|address| address.primary && !address.ours)
            .map(|address| address.net.addr())
            .find(|&address| Family::of(address) == family)
    }

    /// The longest prefix length of the link's own subnets that contain `vip`.
    pub fn prefix_length_for(&self, vip: IpAddr) -> Option<u8> {
        self.addresses
            .iter()
            .filter(|address| !address.ours && address.net.contains(&vip))
            .map(|address| address.net.prefix_len())
            .max()
    }

    /// Whether `address` is on this link, and llb did not add it.
    pub fn has_foreign(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|known| !known.ours && known.net.addr() == address)
    }
}
