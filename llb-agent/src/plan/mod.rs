// SPDX-License-Identifier: Apache-2.0
//! From desired and observed to ordered actions. Pure.
//!
//! A plan holds only what can be done *now*: an action whose precondition is
//! not yet observed is not in it, and comes in a later round. So a failed
//! action holds back just what depends on it, and nothing has to be undone.
//! Make before break:
//!
//! | order | action | precondition, as observed |
//! |---|---|---|
//! | 1 | upsert frontends | none (the VIP need not be on the link yet) |
//! | 2 | add addresses | a frontend on the VIP serves |
//! | 3 | write statuses | the VIP's frontend serves, its address is on the link |
//! | 4 | remove frontends | none (their statuses were written or cleared before) |
//! | 5 | remove addresses | no frontend on the VIP serves or drains |

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::model::{
    AddressKey, Frontend, Mode, Observed, Phase, Port, Protocol, PublishedPort, PublishedStatus,
    PublishedVip, Rule, ServiceName, State,
};

/// `ports[].error` of a port that no plane could take into service.
pub const NOT_SERVED: &str = "llb.dev/PortNotServed";

/// One change, as data. The executor's `match` over it is the list of
/// everything that llb does to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Serve `frontend` by `rule`.
    UpsertFrontend {
        /// Which.
        frontend: Frontend,
        /// How.
        rule: Arc<Rule>,
    },
    /// Put a VIP on a link.
    AddAddress {
        /// Which, where.
        key: AddressKey,
        /// In bits.
        prefix_length: u8,
    },
    /// Write the status of a Service; an empty one clears it.
    WriteStatus {
        /// Whose.
        service: ServiceName,
        /// What.
        status: PublishedStatus,
    },
    /// Take no new traffic; let old connections finish.
    RemoveFrontend {
        /// Which.
        frontend: Frontend,
    },
    /// Take a VIP off a link.
    RemoveAddress {
        /// Which, where.
        key: AddressKey,
        /// In bits.
        prefix_length: u8,
    },
}

/// The object that an action changes: what retries and back-off are kept for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionKey {
    /// A frontend.
    Frontend(Frontend),
    /// An address.
    Address(AddressKey),
    /// A Service's status.
    Status(ServiceName),
}

impl ActionKey {
    /// The VIP that it is a part of.
    fn vip(&self) -> Option<IpAddr> {
        match self {
            Self::Frontend(frontend) => Some(frontend.vip),
            Self::Address(key) => Some(key.address),
            Self::Status(_) => None,
        }
    }
}

impl Action {
    /// The VIP that it puts on a link, and its prefix length.
    pub fn added_address(&self) -> Option<(&AddressKey, u8)> {
        match self {
            Self::AddAddress { key, prefix_length } => Some((key, *prefix_length)),
            _ => None,
        }
    }

    /// Its object.
    pub fn key(&self) -> ActionKey {
        match self {
            Self::UpsertFrontend { frontend, .. } | Self::RemoveFrontend { frontend } => {
                ActionKey::Frontend(*frontend)
            }
            Self::AddAddress { key, .. } | Self::RemoveAddress { key, .. } => ActionKey::Address(key.clone()),
            Self::WriteStatus { service, .. } => ActionKey::Status(service.clone()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpsertFrontend { frontend, rule } => {
                write!(f, "serve {frontend} for {} by {} backends", rule.service, rule.backends.len())
            }
            Self::AddAddress { key, prefix_length } => {
                write!(f, "add {}/{prefix_length} to {}", key.address, key.link)
            }
            Self::WriteStatus { service, status } if status.vips.is_empty() => {
                write!(f, "clear the status of {service}")
            }
            Self::WriteStatus { service, status } => {
                write!(f, "publish for {service}:")?;
                status.vips.iter().try_for_each(|vip| write!(f, " {}", vip.ip))
            }
            Self::RemoveFrontend { frontend } => write!(f, "end {frontend}"),
            Self::RemoveAddress { key, prefix_length } => {
                write!(f, "remove {}/{prefix_length} from {}", key.address, key.link)
            }
        }
    }
}

/// What to do now, in order. Empty when nothing is left that could be done.
pub fn plan(desired: &State, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    actions.extend(upserts(desired, observed));
    actions.extend(address_adds(desired, observed));
    actions.extend(status_writes(desired, observed));
    actions.extend(frontend_removals(desired, observed));
    actions.extend(address_removals(desired, observed));
    actions
}

/// Leaves out the statuses whose frontends or addresses are about to change, or
/// are being worked on (`in_flight`): in a later round they can say what came of
/// it, instead of saying first that a port is not served.
pub fn hold_statuses(due: Vec<Action>, in_flight: &BTreeSet<ActionKey>, desired: &State) -> Vec<Action> {
    let mut changing: BTreeSet<IpAddr> = in_flight.iter().filter_map(ActionKey::vip).collect();
    for action in &due {
        match action {
            Action::UpsertFrontend { frontend, .. } => changing.insert(frontend.vip),
            Action::AddAddress { key, .. } => changing.insert(key.address),
            _ => false,
        };
    }
    let is_hasty = |action: &Action| match action {
        Action::WriteStatus { service, .. } => {
            let wanted = desired.statuses.get(service);
            wanted.is_some_and(|status| status.vips.iter().any(|vip| changing.contains(&vip.ip)))
        }
        _ => false,
    };
    due.into_iter().filter(|action| !is_hasty(action)).collect()
}

fn upserts(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let up_to_date = |frontend: &Frontend, rule: &Arc<Rule>| {
        let current = observed.frontends.get(frontend);
        current.is_some_and(|status| status.phase == Phase::Serving && status.rule.as_ref() == Some(rule))
    };
    let outdated = desired.frontends.iter().filter(move |(frontend, rule)| !up_to_date(frontend, rule));
    outdated.map(|(&frontend, rule)| Action::UpsertFrontend { frontend, rule: rule.clone() })
}

fn address_adds(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let missing = desired.addresses.iter().filter(|(key, _)| !observed.addresses.contains_key(key));
    let ready = missing
        .filter(|(key, _)| frontends_on(observed, key.address).any(|(_, phase)| phase == Phase::Serving));
    ready.map(|(key, &prefix_length)| Action::AddAddress { key: key.clone(), prefix_length })
}

fn status_writes(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let places: BTreeMap<IpAddr, &AddressKey> =
        desired.addresses.keys().map(|key| (key.address, key)).collect();
    desired.statuses.iter().filter_map(move |(service, wanted)| {
        let nothing = PublishedStatus::default();
        let current = observed.statuses.get(service).unwrap_or(&nothing);
        let status = achieved(wanted, current, &places, observed);
        (status != *current).then(|| Action::WriteStatus { service: service.clone(), status })
    })
}

fn frontend_removals(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let serving = observed.frontends.iter().filter(|(_, status)| status.phase == Phase::Serving);
    let unwanted = serving.filter(|(frontend, _)| !desired.has(frontend));
    unwanted.map(|(&frontend, _)| Action::RemoveFrontend { frontend })
}

fn address_removals(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let unwanted = observed
        .addresses
        .iter()
        .filter(|(key, prefix_length)| desired.addresses.get(key) != Some(prefix_length));
    // A VIP that moves to another link, or gets another prefix length, is
    // still in use: it leaves its old place although it is served.
    let moves = |vip: IpAddr| desired.addresses.keys().any(|key| key.address == vip);
    let idle = unwanted
        .filter(move |(key, _)| moves(key.address) || frontends_on(observed, key.address).next().is_none());
    idle.map(|(key, &prefix_length)| Action::RemoveAddress { key: key.clone(), prefix_length })
}

/// The frontends of one VIP lie side by side in the map.
fn frontends_on(observed: &Observed, vip: IpAddr) -> impl Iterator<Item = (&Frontend, Phase)> {
    let lowest = Frontend { vip, port: Port::MIN, protocol: Protocol::Tcp };
    let on_vip = observed.frontends.range(lowest..).take_while(move |(frontend, _)| frontend.vip == vip);
    on_vip.map(|(frontend, status)| (frontend, status.phase))
}

/// The part of `wanted` that is true by now. What is published already stays
/// published while it is wanted: a VIP must not flicker because its last
/// backend is replaced or its link flaps.
fn achieved(
    wanted: &PublishedStatus,
    current: &PublishedStatus,
    places: &BTreeMap<IpAddr, &AddressKey>,
    observed: &Observed,
) -> PublishedStatus {
    let published = current.addresses();
    let vips = wanted.vips.iter().filter_map(|vip| {
        let ports: Vec<PublishedPort> =
            vip.ports.iter().map(|port| achieved_port(vip.ip, port, observed)).collect();
        let accepts = vip
            .ports
            .iter()
            .any(|port| frontend_of(vip.ip, port).is_some_and(|frontend| accepts(&frontend, observed)));
        // A VIP that needs no place is the machine's own address.
        let reachable = places.get(&vip.ip).is_none_or(|key| observed.addresses.contains_key(key));
        let true_now = published.contains(&vip.ip) || (accepts && reachable);
        let proxy = vip.proxy || !is_dsr(vip, observed);
        true_now.then_some(PublishedVip { ip: vip.ip, proxy, ports })
    });
    PublishedStatus { vips: vips.collect() }
}

/// Nodes may take packets to the VIP for their own (ipMode VIP) only where all
/// that is served on it leaves packets as they are. Else kube-proxy would answer
/// clients in the cluster past a relay.
fn is_dsr(vip: &PublishedVip, observed: &Observed) -> bool {
    let served = vip.ports.iter().filter_map(|port| observed.frontends.get(&frontend_of(vip.ip, port)?));
    let mut modes = served.map(|status| status.placement.mode).peekable();
    modes.peek().is_some() && modes.all(|mode| mode == Some(Mode::Dsr))
}

fn achieved_port(vip: IpAddr, port: &PublishedPort, observed: &Observed) -> PublishedPort {
    let served = frontend_of(vip, port).is_none_or(|frontend| observed.frontends.contains_key(&frontend));
    let error = port.error.clone().or_else(|| (!served).then(|| NOT_SERVED.to_owned()));
    PublishedPort { error, ..port.clone() }
}

/// Has a listener: without backends there is none.
fn accepts(frontend: &Frontend, observed: &Observed) -> bool {
    let status = observed.frontends.get(frontend).filter(|status| status.phase == Phase::Serving);
    let rule = status.and_then(|status| status.rule.as_ref());
    rule.is_some_and(|rule| !rule.backends.is_empty())
}

/// `None` for a protocol that llb does not serve.
fn frontend_of(vip: IpAddr, port: &PublishedPort) -> Option<Frontend> {
    let protocol = match port.protocol.as_str() {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    Some(Frontend { vip, port: Port::new(port.port.into())?, protocol })
}
