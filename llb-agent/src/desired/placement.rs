//! Which link a VIP goes on, and with which prefix length.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Inputs;
use crate::model::{
    AddressKey, Family, Problem, ProblemReason, PublishedStatus, ServiceName, State, Subject,
};

/// Fills `state.addresses` from the VIPs of `state.frontends`.
pub(super) fn place(inputs: Inputs<'_>, state: &mut State, problems: &mut Vec<Problem>) {
    if inputs.facts.links.is_empty() {
        let message = "no link device exists (any more), so no VIP can be put on one; they are restored when it is back";
        problems.push(Problem {
            subject: Subject::Link("devices".to_owned()),
            reason: ProblemReason::LinkMissing,
            message: message.to_owned(),
        });
        keep_only_held(inputs, state);
        return;
    }
    let mut vips: BTreeMap<IpAddr, BTreeSet<&ServiceName>> = BTreeMap::new();
    for (frontend, rule) in &state.frontends {
        vips.entry(frontend.vip).or_default().insert(&rule.service);
    }
    for (vip, services) in vips {
        if inputs.facts.links.iter().any(|link| link.has_foreign(vip)) {
            continue; // The machine has it already: nothing to add, and never ours to remove.
        }
        let holding = inputs.facts.links.iter().find_map(|link| Some((link, link.prefix_length_for(vip)?)));
        let (link, prefix_length) =
            holding.unwrap_or((&inputs.facts.links[0], Family::of(vip).host_prefix()));
        state.addresses.insert(AddressKey { link: link.name.clone(), address: vip }, prefix_length);
        if holding.is_none() {
            let message = format!(
                "{vip} is in no subnet of any link device, so it is on {} as /{prefix_length}; clients reach it only \
                 where a route to this machine exists",
                link.name
            );
            problems.extend(
                services
                    .iter()
                    .map(|name| Problem::of_service(name, ProblemReason::NoSubnet, message.clone())),
            );
        }
    }
}

/// Without a link nothing new is published, and nothing published is cleared.
fn keep_only_held(inputs: Inputs<'_>, state: &mut State) {
    for (name, status) in &mut state.statuses {
        let held = inputs.held.get(name).map(PublishedStatus::addresses).unwrap_or_default();
        status.vips.retain(|vip| held.contains(&vip.ip));
    }
}
