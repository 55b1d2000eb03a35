// SPDX-License-Identifier: Apache-2.0
//! Which statuses to write: the part of what is wanted that is true by now.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::action::Action;
use super::addresses::address_removals;
use crate::model::{
    AddressKey, Finalizer, Frontend, Mode, Observed, Phase, Port, Protocol, PublishedPort, PublishedStatus,
    PublishedVip, ServiceName, State,
};

/// `ports[].error` of a port that no plane could take into service.
pub const NOT_SERVED: &str = "llb.dev/PortNotServed";

pub(super) fn status_writes<'a>(
    desired: &'a State,
    observed: &'a Observed,
) -> impl Iterator<Item = Action> + 'a {
    let wanted_on: BTreeMap<IpAddr, &AddressKey> =
        desired.addresses.keys().map(|key| (key.address, key)).collect();
    desired.statuses.iter().filter_map(move |(service, wanted)| {
        let nothing = PublishedStatus::default();
        let current = observed.statuses.get(service).unwrap_or(&nothing);
        let vips = achieved(wanted, current, &wanted_on, observed);
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
        let status = PublishedStatus { vips, finalizer };
        (status != *current).then(|| Action::WriteStatus { service: service.clone(), status })
    })
}

/// Whether something of a Service that goes is still there: a frontend that serves or drains, or an address that no
/// frontend needs any more. Whose address that was is not known any more, but all of them go in the next round.
fn is_still_served(service: &ServiceName, desired: &State, observed: &Observed) -> bool {
    let mut rules = observed.frontends.values().filter_map(|status| status.rule.as_ref());
    rules.any(|rule| rule.service == *service) || address_removals(desired, observed).next().is_some()
}

/// The part of `wanted` that is true by now. A VIP that is published already
/// stays published while it is wanted: it must not disappear for a moment because
/// its last backend is replaced or its link goes down and up. `wanted_on` has the
/// link of each VIP that llb adds.
fn achieved(
    wanted: &PublishedStatus,
    current: &PublishedStatus,
    wanted_on: &BTreeMap<IpAddr, &AddressKey>,
    observed: &Observed,
) -> Arc<[PublishedVip]> {
    let published = current.addresses();
    let vips = wanted.vips.iter().filter_map(|vip| {
        let ports: Vec<PublishedPort> =
            vip.ports.iter().map(|port| achieved_port(vip.ip, port, observed)).collect();
        let accepts = vip
            .ports
            .iter()
            .any(|port| frontend_of(vip.ip, port).is_some_and(|frontend| accepts(&frontend, observed)));
        // A VIP that llb does not add is one of the machine's own addresses.
        let reachable = wanted_on.get(&vip.ip).is_none_or(|key| observed.addresses.contains_key(key));
        let true_now = published.contains(&vip.ip) || (accepts && reachable);
        let proxy = vip.proxy || !is_dsr(vip, observed);
        true_now.then_some(PublishedVip { ip: vip.ip, proxy, ports })
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

/// True if the frontend accepts connections; without backends it has no listener.
fn accepts(frontend: &Frontend, observed: &Observed) -> bool {
    let status = observed.frontends.get(frontend);
    let rule = status.filter(|status| status.phase == Phase::Serving).and_then(|status| status.rule.as_ref());
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
