// SPDX-License-Identifier: Apache-2.0
//! Which statuses to write: the part of what is wanted that is true by now.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::action::Action;
use super::addresses;
use crate::model::{
    Finalizer, Frontend, Mode, Observed, Phase, Port, Protocol, PublishedPort, PublishedStatus, PublishedVip,
    ServiceName, State,
};

/// `ports[].error` of a port that no plane could take into service.
pub const NOT_SERVED: &str = "llb.dev/PortNotServed";

/// Another host has a VIP for certain after this many probes in a row (each is a series of frames) that
/// found it. One answer may be a mistake, or come from a host that only probes as well.
pub const CONFIRMED: u32 = 2;

pub(super) fn status_writes<'a>(
    desired: &'a State,
    observed: &'a Observed,
) -> impl Iterator<Item = Action> + 'a {
    let there = there(desired, observed);
    desired.statuses.iter().filter_map(move |(service, wanted)| {
        let nothing = PublishedStatus::default();
        let current = observed.statuses.get(service).unwrap_or(&nothing);
        let vips = achieved(wanted, current, &there, observed);
        let goes = wanted.vips.is_empty() && current.finalizer == Finalizer::Ours;
        let still_served = goes && is_still_served(service, desired, observed);
        if still_served && desired.leaving.contains(service) {
            return None;
        }
        let finalizer = match current.finalizer {
            Finalizer::Foreign => Finalizer::Foreign,
            Finalizer::Ours if still_served => Finalizer::Ours,
            Finalizer::Absent if vips.is_empty() => Finalizer::Absent,
            _ => wanted.finalizer,
        };
        let status = PublishedStatus { vips, finalizer, modes_untold: current.modes_untold };
        (status != *current).then(|| Action::WriteStatus { service: service.clone(), status })
    })
}

/// Whether something of a Service that goes is still there: a frontend that serves or drains, or an address that no
/// frontend needs any more. Whose address that was is not known any more, but all of them go in the next round.
fn is_still_served(service: &ServiceName, desired: &State, observed: &Observed) -> bool {
    let mut rules = observed.frontends.values().filter_map(|status| status.rule.as_ref());
    rules.any(|rule| rule.service == *service) || addresses::removals(desired, observed).next().is_some()
}

/// The VIPs that are where they should be: on the link that they are wanted on, or the machine's own addresses, or at
/// another box of the group.
pub fn there(desired: &State, observed: &Observed) -> BTreeSet<IpAddr> {
    let added = desired.addresses.keys().filter(|key| observed.addresses.contains_key(key));
    let own = desired.on_own_addresses.iter().map(|frontend| frontend.vip);
    let elsewhere = desired.elsewhere.keys();
    added.chain(elsewhere).map(|key| key.address).chain(own).collect()
}

/// The part of `wanted` that is true by now. A VIP is published once it is placed, with or without
/// backends. It then stays published while it is wanted, unless another host has it: it must not
/// disappear for a moment because its link goes down and up. While a VIP is away, its entry in the
/// status does not change. `there` are the VIPs that are in their place.
fn achieved(
    wanted: &PublishedStatus,
    current: &PublishedStatus,
    there: &BTreeSet<IpAddr>,
    observed: &Observed,
) -> Arc<[PublishedVip]> {
    let vips = wanted.vips.iter().filter_map(|vip| {
        let published = current.vips.iter().find(|known| known.ip == vip.ip);
        if !there.contains(&vip.ip) {
            let is_lost = observed.taken.get(&vip.ip).is_some_and(|&times| times >= CONFIRMED);
            return published.filter(|_| !is_lost).cloned();
        }
        let is_served = vip.ports.iter().any(|port| is_served(vip.ip, port, observed));
        if published.is_none() && !is_served {
            return None;
        }
        let ports: Vec<PublishedPort> =
            vip.ports.iter().map(|port| achieved_port(vip.ip, port, observed)).collect();
        let proxy = match published {
            // What the API does not keep would be written again and again.
            Some(known) if current.modes_untold => known.proxy,
            _ => vip.proxy || !is_dsr(vip, observed),
        };
        Some(PublishedVip { ip: vip.ip, proxy, ports })
    });
    vips.collect()
}

/// True if frontends on the VIP are served, all of them in mode DSR. Only then may nodes
/// treat the VIP as their own (ipMode VIP): otherwise kube-proxy would serve
/// clients in the cluster itself, and bypass the relay or NAT of llb.
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

/// Whether a plane has accepted the port's frontend, with or without backends. A port with an error
/// of its own is no reason to publish a VIP.
fn is_served(vip: IpAddr, port: &PublishedPort, observed: &Observed) -> bool {
    let status = frontend_of(vip, port).and_then(|frontend| observed.frontends.get(&frontend));
    port.error.is_none() && status.is_some_and(|status| status.phase == Phase::Serving)
}

/// The frontend of a published port; `None` for a protocol that llb does not serve.
pub fn frontend_of(vip: IpAddr, port: &PublishedPort) -> Option<Frontend> {
    let protocol = match port.protocol.as_str() {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    Some(Frontend { vip, port: Port::new(port.port.into())?, protocol })
}
