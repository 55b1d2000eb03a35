// SPDX-License-Identifier: Apache-2.0
//! A Service of type LoadBalancer, cut to the parts that a decision needs.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::{Family, Port, Protocol};
use super::terms::Terms;

/// `namespace/name` of a Service. Cheap to clone: it is the key of most maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in it.
    pub name: Arc<str>,
}

impl ServiceName {
    /// From its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts = text.split_once('/').ok_or_else(|| D::Error::custom("a Service is named namespace/name"));
        parts.map(|(namespace, name)| Self::new(namespace, name))
    }
}

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any node may forward.
    #[default]
    Cluster,
    /// Only nodes with a ready local endpoint.
    Local,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; may be absent only in a Service with one port.
    pub name: Option<String>,
    /// The port on the VIP.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port on every node; absent with `allocateLoadBalancerNodePorts: false`.
    pub node_port: Option<Port>,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedVip {
    /// The VIP.
    pub ip: IpAddr,
    /// `ipMode` is Proxy: packets reach the nodes with another destination
    /// than the VIP (KEP-1860). True for all that llb writes.
    pub proxy: bool,
    /// Its ports, sorted.
    pub ports: Vec<PublishedPort>,
}

/// One entry of `status.loadBalancer.ingress[].ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The service port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Why this port is not served, in the format of a condition reason (CamelCase).
    pub error: Option<String>,
}

/// What `status.loadBalancer` says. Cheap to clone: a round has several of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedStatus {
    /// One entry per VIP.
    pub vips: Arc<[PublishedVip]>,
}

impl PublishedStatus {
    /// The addresses only.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.vips.iter().map(|vip| vip.ip).collect()
    }
}

/// A Service of any type, cut to the parts that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `metadata.uid`; empty in manifests.
    pub uid: String,
    /// `metadata.resourceVersion`; opaque; empty in manifests.
    pub revision: String,
    /// `metadata.creationTimestamp` in seconds since the epoch; 0 in manifests.
    pub created: i64,
    /// `spec.type` is LoadBalancer and the object is not being deleted.
    pub wants_load_balancer: bool,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// `spec.ports`, without those that could not be understood.
    pub ports: Vec<ServicePort>,
    /// Ports that llb can't serve, with the reason, as they go into the status.
    pub unsupported_ports: Vec<PublishedPort>,
    /// The families that the Service wants, in its order of preference.
    /// Empty: whatever its VIPs have.
    pub families: Vec<Family>,
    /// Every family in `families` is needed (SingleStack, RequireDualStack),
    /// or one of them is enough (PreferDualStack).
    pub needs_every_family: bool,
    /// VIPs asked for by annotation `llb.dev/vips` or `spec.loadBalancerIP`.
    pub requested_vips: Vec<IpAddr>,
    /// The pool to get VIPs from, by annotation `llb.dev/pool`; those that it
    /// asks for or has already need none.
    pub pool: Option<String>,
    /// Something asked for was not understood; serving something else instead
    /// would be a surprise, so the Service is refused. The problem itself is
    /// in the snapshot.
    pub invalid: bool,
    /// Cluster or Local.
    pub traffic_policy: TrafficPolicy,
    /// How its traffic is treated.
    pub terms: Terms,
    /// What `status.loadBalancer` says now.
    pub status: PublishedStatus,
}
