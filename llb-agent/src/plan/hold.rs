// SPDX-License-Identifier: Apache-2.0
//! Which planned actions wait for others that are about to run, or are running.
//!
//! They stay in the plan, so that what is known of their failures is not forgotten
//! meanwhile: a probe lasts a moment, and a frontend that can't be served fails for longer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::action::{Action, ActionKey};
use crate::model::{Frontend, Observed, Phase, State};

/// What is done now, and what waits.
#[derive(Debug, Default)]
pub struct Held {
    /// What is done now, in order.
    pub now: Vec<Action>,
    /// The objects of the actions that wait.
    pub waiting: BTreeSet<ActionKey>,
}

/// Holds back two kinds of action. A new frontend waits until its VIP is this machine's: until
/// then, packets to the VIP are another host's. The status of a VIP waits while its frontends
/// or addresses are about to change, or are being worked on (`in_flight`): writing now would
/// first publish that a port is not served.
pub fn hold_back(
    due: Vec<Action>,
    in_flight: &BTreeSet<ActionKey>,
    desired: &State,
    observed: &Observed,
) -> Held {
    let on_links: BTreeSet<IpAddr> = observed.addresses.keys().map(|key| key.address).collect();
    // No packets come for it: only its address is missing when this box gets it.
    let elsewhere: BTreeSet<IpAddr> = desired.elsewhere.keys().map(|key| key.address).collect();
    let is_ours = |frontend: &Frontend| {
        on_links.contains(&frontend.vip)
            || observed.free.contains(&frontend.vip)
            || desired.on_own_addresses.contains(frontend)
            || elsewhere.contains(&frontend.vip)
            || observed.frontends.get(frontend).is_some_and(|status| status.phase == Phase::Serving)
    };
    let waits_for_vip = |action: &Action| match action {
        Action::UpsertFrontend { frontend, .. } => !is_ours(frontend),
        _ => false,
    };
    let mut changing: BTreeSet<IpAddr> = in_flight.iter().filter_map(ActionKey::vip).collect();
    for action in due.iter().filter(|action| !waits_for_vip(action)) {
        match action {
            Action::UpsertFrontend { frontend, .. } => changing.insert(frontend.vip),
            Action::ProbeAddress { key } | Action::AddAddress { key, .. } => changing.insert(key.address),
            _ => false,
        };
    }
    let waits_for_change = |action: &Action| match action {
        Action::WriteStatus { service, .. } => {
            let wanted = desired.statuses.get(service);
            wanted.is_some_and(|status| status.vips.iter().any(|vip| changing.contains(&vip.ip)))
        }
        _ => false,
    };
    let mut held = Held::default();
    for action in due {
        if waits_for_vip(&action) || waits_for_change(&action) {
            held.waiting.insert(action.key());
        } else {
            held.now.push(action);
        }
    }
    held
}
