// SPDX-License-Identifier: Apache-2.0
//! What a data plane serves: frontends and the rule behind each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::address::{Family, Port, Protocol};
use super::mode::Mode;
use super::other_clients::OtherClients;
use super::placement::Placement;
use super::service::ServiceName;
use super::terms::Terms;

/// VIP + port + protocol: the key of every lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address that clients connect to.
    pub vip: IpAddr,
    /// The service port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Frontend {
    /// VIP and port as one address.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.vip, self.port.get())
    }

    /// The frontend with this name, as [`Frontend`] is displayed.
    pub fn named(text: &str) -> Option<Self> {
        let (address, protocol) = text.rsplit_once('/')?;
        let address: SocketAddr = address.parse().ok()?;
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let protocol = protocols.into_iter().find(|known| known.name() == protocol)?;
        Some(Self { vip: address.ip(), port: Port::new(address.port().into())?, protocol })
    }

    /// The family of the VIP.
    pub fn family(&self) -> Family {
        Family::of(self.vip)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket_address(), self.protocol)
    }
}

impl Serialize for Frontend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An address + port that receives forwarded traffic: a node's nodePort or a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Where to connect or send to.
    pub address: SocketAddr,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Serialize for Backend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How much of the traffic a backend gets, relative to the others.
pub type Weight = NonZeroU16;

/// What a frontend does with its traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The Service that the frontend belongs to. Affinity and limits hold across all its frontends.
    pub service: ServiceName,
    /// Where traffic may go. If there are no backends, it is refused (RST, port unreachable).
    pub backends: BTreeMap<Backend, Weight>,
    /// The backends are nodePorts of Nodes.
    pub to_nodes: bool,
    /// How the packet plane forwards, if it serves the frontend.
    pub mode: Mode,
    /// In mode DSR: a flow whose first packet a Node sends back, because it has no rule for the VIP yet, goes on
    /// in mode NAT. Only where Pods do not see the client's address in mode DSR either.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nat_instead: bool,
    /// Never in mode NAT: if DSR is not possible, the relay serves.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_dsr: bool,
    /// How the traffic is treated.
    pub terms: Terms,
}

impl Rule {
    /// A rule with endpoints as backends, in mode NAT.
    pub fn new(service: ServiceName, backends: BTreeMap<Backend, Weight>, terms: Terms) -> Self {
        Self {
            service,
            backends,
            to_nodes: false,
            mode: Mode::Nat,
            nat_instead: false,
            only_dsr: false,
            terms,
        }
    }

    /// The addresses of the backends, each once.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.backends.keys().map(|backend| backend.address.ip()).collect()
    }
}

/// The phase of a frontend's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// New connections are accepted; without backends they are refused.
    Serving,
    /// New connections are not accepted; old ones may finish.
    Draining,
}

/// A frontend as a data plane has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrontendStatus {
    /// The rule that was applied last. `None`: not known, because the agent before this one applied it.
    pub rule: Option<Arc<Rule>>,
    /// Serving or draining.
    pub phase: Phase,
    /// The plane that serves it.
    pub placement: Placement,
    /// Clients that its packet plane does not see. `None` if there is nothing to tell apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_clients: Option<OtherClients>,
    /// The reason for this placement no longer holds. If its rule is applied again, another plane may serve it,
    /// or the same one in another mode.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_misplaced: bool,
}

impl FrontendStatus {
    /// A frontend that the relay in user space serves.
    pub fn relayed(rule: Arc<Rule>, phase: Phase) -> Self {
        let placement = Placement::default();
        Self { rule: Some(rule), phase, placement, other_clients: None, is_misplaced: false }
    }

    /// Whether this is a frontend of `service`. False while its rule is not known.
    pub fn is_of(&self, service: &ServiceName) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.service == *service)
    }
}
