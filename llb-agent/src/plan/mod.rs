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

mod action;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

pub use action::{Action, ActionKey};
pub use status::NOT_SERVED;
use status::status_writes;

use crate::model::{Frontend, Observed, Phase, Port, Protocol, Rule, State};

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
        current.is_some_and(|status| status.phase == Phase::Serving && status.rule == *rule)
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

fn frontend_removals(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let serving = observed.frontends.iter().filter(|(_, status)| status.phase == Phase::Serving);
    let unwanted = serving.filter(|(frontend, _)| !desired.frontends.contains_key(frontend));
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
