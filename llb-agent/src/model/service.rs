// SPDX-License-Identifier: Apache-2.0
//! A Service, reduced to the parts that decisions need.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::{Family, Port, Protocol};
use super::conditions::Conditions;
use super::finalizer::Finalizer;
use super::terms::Terms;

/// `namespace/name` of a Service, the key of most maps. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl ServiceName {
    /// Takes the two parts.
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
    /// Traffic may go to any node.
    #[default]
    Cluster,
    /// Traffic goes only to nodes that have a ready endpoint themselves.
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
    /// `ipMode` is Proxy: packets reach the nodes with another destination than the VIP
    /// (KEP-1860). llb writes it for all Services except those in mode DSR.
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

/// The content of `status.loadBalancer`, and the finalizer, which is written together with it. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedStatus {
    /// One entry per VIP.
    pub vips: Arc<[PublishedVip]>,
    /// The API does not tell `ipMode`: Kubernetes before 1.30 does not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub modes_untold: bool,
    /// Whether the Service is kept until its VIPs are gone.
    #[serde(default, skip_serializing_if = "Finalizer::is_absent")]
    pub finalizer: Finalizer,
}

impl PublishedStatus {
    /// Whether llb has nothing to remove: no VIP and no finalizer of ours.
    pub fn is_empty(&self) -> bool {
        self.vips.is_empty() && self.finalizer != Finalizer::Ours
    }

    /// The addresses only.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.vips.iter().map(|vip| vip.ip).collect()
    }
}

/// A Service of any type, reduced to the parts that decisions need.
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
    /// The object is being deleted, and finalizers keep it.
    #[serde(default)]
    pub deleting: bool,
    /// All labels, for the selectors of pools.
    pub labels: BTreeMap<String, String>,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// `spec.ports`, without those that could not be understood.
    pub ports: Vec<ServicePort>,
    /// Ports that llb cannot serve, with the reason, as they are written to the status.
    pub unsupported_ports: Vec<PublishedPort>,
    /// The families that the Service wants, in its order of preference; empty: any.
    pub families: Vec<Family>,
    /// True: the Service needs a VIP of every family in `families` (SingleStack,
    /// RequireDualStack). False: one of the first family is enough (PreferDualStack).
    pub needs_every_family: bool,
    /// The VIPs that the Service asks for by annotation `llb.dev/vips` or `spec.loadBalancerIP`.
    pub requested_vips: Vec<IpAddr>,
    /// The pool to take new VIPs from, by annotation `llb.dev/pool`.
    pub pool: Option<String>,
    /// Annotation `llb.dev/sharing-key`: Services of one namespace with the same key may share VIPs.
    pub sharing_key: Option<String>,
    /// `spec.clusterIPs`, of Services of every type.
    pub cluster_ips: Vec<IpAddr>,
    /// A request of the Service was not understood. Instead of serving something else,
    /// llb gives it nothing new. The problem itself is in the snapshot.
    pub invalid: bool,
    /// Cluster or Local.
    pub traffic_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`: where kube-proxy tells, with Local, whether a Node serves the Service.
    #[serde(default)]
    pub health_check_node_port: Option<Port>,
    /// How its traffic is treated.
    pub terms: Terms,
    /// What `status.loadBalancer` says now.
    pub status: PublishedStatus,
    /// What llb's conditions say now.
    #[serde(skip_serializing_if = "Conditions::is_empty", default)]
    pub conditions: Conditions,
}
