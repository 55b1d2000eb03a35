// SPDX-License-Identifier: Apache-2.0
//! Which VIPs to probe for, to put on links, and to take off.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::action::Action;
use crate::model::{AddressKey, Frontend, Observed, Phase, Port, Protocol, State};

/// A VIP that waits for its first frontend, while the frontend waits for the VIP to be free.
pub(super) fn probes<'a>(desired: &'a State, observed: &'a Observed) -> impl Iterator<Item = Action> {
    let waiting = missing(desired, observed).filter(|(_, _, comes_first)| !comes_first);
    let unknown = waiting.filter(|(key, ..)| !observed.free.contains(&key.address));
    unknown.map(|(key, ..)| Action::ProbeAddress { key: key.clone() })
}

pub(super) fn additions<'a>(desired: &'a State, observed: &'a Observed) -> impl Iterator<Item = Action> {
    let ready = missing(desired, observed).filter(|(_, _, comes_first)| *comes_first);
    ready.map(|(key, prefix_length, _)| Action::AddAddress { key: key.clone(), prefix_length })
}

/// The wanted addresses that are not on their links, with their prefix lengths, and whether
/// they are added next: a frontend on the VIP serves already, or the VIP gets none.
fn missing<'a>(
    desired: &'a State,
    observed: &'a Observed,
) -> impl Iterator<Item = (&'a AddressKey, u8, bool)> {
    let missing = desired.addresses.iter().filter(|(key, _)| !observed.addresses.contains_key(key));
    let missing = missing.filter(|(key, _)| !observed.unready_links.contains(&key.link));
    // A VIP whose Service has no port that llb can serve is on its link without a frontend.
    let vips: BTreeSet<IpAddr> = desired.frontends.keys().map(|frontend| frontend.vip).collect();
    missing.map(move |(key, &prefix_length)| {
        let serves = || frontends_on(observed, key.address).any(|(_, phase)| phase == Phase::Serving);
        let is_taken = observed.taken.contains_key(&key.address);
        (key, prefix_length, !vips.contains(&key.address) || (!is_taken && serves()))
    })
}

pub(super) fn removals(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let unwanted = observed
        .addresses
        .iter()
        .filter(|(key, prefix_length)| desired.addresses.get(key) != Some(prefix_length));
    // A VIP that moves to another link, or gets another prefix length, leaves
    // its old link although it is still served.
    let moves = |vip: IpAddr| desired.addresses.keys().any(|key| key.address == vip);
    // ... and one that another box has now must not answer here.
    let leaves = move |key: &AddressKey| moves(key.address) || desired.elsewhere.contains_key(key);
    let idle =
        unwanted.filter(move |(key, _)| leaves(key) || frontends_on(observed, key.address).next().is_none());
    idle.map(|(key, &prefix_length)| Action::RemoveAddress { key: key.clone(), prefix_length })
}

/// The frontends of one VIP are neighbours in the map, because the VIP is the
/// first field of the key.
fn frontends_on(observed: &Observed, vip: IpAddr) -> impl Iterator<Item = (&Frontend, Phase)> {
    let lowest = Frontend { vip, port: Port::MIN, protocol: Protocol::Tcp };
    let on_vip = observed.frontends.range(lowest..).take_while(move |(frontend, _)| frontend.vip == vip);
    on_vip.map(|(frontend, status)| (frontend, status.phase))
}
