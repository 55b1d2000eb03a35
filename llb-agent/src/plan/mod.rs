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
//! | 1 | probe for addresses | frontends wait for the result |
//! | 2 | upsert frontends | the VIP is on a link, or no other host has it ([`hold_back`]) |
//! | 3 | add addresses | a frontend on the VIP serves, or the VIP has no frontend |
//! | 4 | write statuses | a frontend on the VIP serves, with or without backends; the address is on its link |
//! |   | ... without the finalizer | no frontend of the Service serves or drains; no address waits to be removed |
//! | 5 | remove frontends | none (their statuses were written or cleared before) |
//! | 6 | remove addresses | no frontend on the VIP serves or drains, or another box of the group has it |
//!
//! The order of 2 and 3: an address that answers before its frontend is there refuses its clients.

mod action;
mod addresses;
mod hold;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use action::{Action, ActionKey};
pub use hold::{Held, hold_back};
use status::status_writes;
pub use status::{CONFIRMED, NOT_SERVED, frontend_of, there};

use crate::model::{Frontend, Observed, Phase, Rule, State};

/// What to do now, in order. Empty when nothing can be done.
pub fn plan(desired: &State, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    actions.extend(addresses::probes(desired, observed));
    actions.extend(upserts(desired, observed));
    actions.extend(addresses::additions(desired, observed));
    actions.extend(status_writes(desired, observed));
    actions.extend(frontend_removals(desired, observed));
    actions.extend(addresses::removals(desired, observed));
    actions
}

fn upserts(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    // Packets to a VIP that another host has are that host's, also if this machine routes them.
    let is_taken = |frontend: &Frontend| observed.taken.contains_key(&frontend.vip);
    let up_to_date = |frontend: &Frontend, rule: &Arc<Rule>| {
        let current = observed.frontends.get(frontend);
        current.is_some_and(|status| {
            status.phase == Phase::Serving && status.rule.as_ref() == Some(rule) && !status.is_misplaced
        })
    };
    let outdated = desired
        .frontends
        .iter()
        .filter(move |(frontend, rule)| !is_taken(frontend) && !up_to_date(frontend, rule));
    outdated.map(|(&frontend, rule)| Action::UpsertFrontend { frontend, rule: rule.clone() })
}

fn frontend_removals(desired: &State, observed: &Observed) -> impl Iterator<Item = Action> {
    let serving = observed.frontends.iter().filter(|(_, status)| status.phase == Phase::Serving);
    let unwanted =
        serving.filter(|(frontend, _)| !desired.has(frontend) || observed.taken.contains_key(&frontend.vip));
    unwanted.map(|(&frontend, _)| Action::RemoveFrontend { frontend })
}
