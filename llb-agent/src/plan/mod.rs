// SPDX-License-Identifier: Apache-2.0
//! Compares desired with observed, and lists the actions that lead from one to
//! the other, in order. Pure.
//!
//! A plan contains only what can be done *now*. An action whose precondition is
//! not yet observed is left out; a later plan has it. So a failed action delays
//! only what depends on it, and nothing has to be undone. Make before break:
//!
//! | order | action | precondition, as observed |
//! |---|---|---|
//! | 1 | upsert frontends | none (the VIP need not be on the link yet) |
//! | 2 | add addresses | a frontend on the VIP serves, or the VIP has no frontend |
//! | 3 | write statuses | a frontend on the VIP has backends and serves; the address is on its link |
//! | 4 | remove frontends | none (their statuses were written or cleared before) |
//! | 5 | remove addresses | no frontend on the VIP serves or drains |

mod action;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

pub use action::{Action, ActionKey};
use status::status_writes;
pub use status::{NOT_SERVED, frontend_of};

use crate::model::{Frontend, Observed, Phase, Port, Protocol, Rule, State};

/// What to do now, in order. Empty when nothing can be done.
pub fn plan(desired: &State, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    actions.extend(upserts(desired, observed));
    actions.extend(address_adds(desired, observed));
    actions.extend(status_writes(desired, observed));
    actions.extend(frontend_removals(desired, observed));
    actions.extend(address_removals(desired, observed));
    actions
}

/// Leaves out the status writes of VIPs whose frontends or addresses are about to
/// change, or are being worked on (`in_flight`). A later plan writes the result;
/// writing now would first publish that a port is not served.
pub fn hold_statuses(due: Vec<Action>, in_flight: &BTreeSet<ActionKey>, desired: &State) -> Vec<Action> {
    let mut changing: BTreeSet<IpAddr> = in_flight.iter().filter_map(ActionKey::vip).collect();
    for action in &due {
        match action {
            Action::UpsertFrontend { frontend, .. } => changing.insert(frontend.vip),
            Action::AddAddress { key, .. } => changing.insert(key.address),
            _ => false,
        };
    }
    let is_too_early = |action: &Action| match action {
        Action::WriteStatus { service, .. } => {
            let wanted = desired.statuses.get(service);
            wanted.is_some_and(|status| status.vips.iter().any(|vip| changing.contains(&vip.ip)))
        }
        _ => false,
    };
    due.into_iter().filter(|action| !is_too_early(action)).collect()
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
    // A VIP whose Service has no port that llb can serve is on its link without a frontend.
    let vips: BTreeSet<IpAddr> = desired.frontends.keys().map(|frontend| frontend.vip).collect();
    let ready = missing.filter(move |(key, _)| {
        !vips.contains(&key.address)
            || frontends_on(observed, key.address).any(|(_, phase)| phase == Phase::Serving)
    });
    ready.map(|(key, &prefix_length)| Action::AddAddress { key: key.clone(), prefix_length })
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
