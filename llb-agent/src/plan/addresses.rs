// SPDX-License-Identifier: Apache-2.0
//! Which VIPs can be put on links and taken off them now.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::action::Action;
use crate::model::{Frontend, Observed, Phase, Port, Protocol, State};

pub(super) fn address_adds(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let missing = desired.addresses.iter().filter(|(key, _)| !observed.addresses.contains_key(key));
    // A VIP whose Service has no port that llb can serve is on its link without a frontend.
    let vips: BTreeSet<IpAddr> = desired.frontends.keys().map(|frontend| frontend.vip).collect();
    let ready = missing.filter(move |(key, _)| {
        !vips.contains(&key.address)
            || frontends_on(observed, key.address).any(|(_, phase)| phase == Phase::Serving)
    });
    ready.map(|(key, &prefix_length)| Action::AddAddress { key: key.clone(), prefix_length })
}

pub(super) fn address_removals(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let unwanted = observed
        .addresses
        .iter()
        .filter(|(key, prefix_length)| desired.addresses.get(key) != Some(prefix_length));
    // A VIP that moves to another link, or gets another prefix length, leaves
    // its old link although it is still served.
    let moves = |vip: IpAddr| desired.addresses.keys().any(|key| key.address == vip);
    let idle = unwanted
        .filter(move |(key, _)| moves(key.address) || frontends_on(observed, key.address).next().is_none());
    idle.map(|(key, &prefix_length)| Action::RemoveAddress { key: key.clone(), prefix_length })
}

/// The frontends of one VIP are neighbours in the map, because the VIP is the
/// first field of the key.
fn frontends_on(observed: &Observed, vip: IpAddr) -> impl Iterator<Item = (&Frontend, Phase)> {
    let lowest = Frontend { vip, port: Port::MIN, protocol: Protocol::Tcp };
    let on_vip = observed.frontends.range(lowest..).take_while(move |(frontend, _)| frontend.vip == vip);
    on_vip.map(|(frontend, status)| (frontend, status.phase))
}
