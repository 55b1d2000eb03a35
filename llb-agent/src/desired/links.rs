// SPDX-License-Identifier: Apache-2.0
//! Which link a VIP is added to, and with which prefix length.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::inputs::Inputs;
use crate::model::{
    AddressKey, Announce, Family, Link, Problem, ProblemReason, PublishedStatus, ServiceName, State, Subject,
    VIP_LINK,
};

/// Fills `state.addresses` and `state.elsewhere` with the VIPs of all Services.
pub(super) fn assign(inputs: Inputs<'_>, state: &mut State, problems: &mut Vec<Problem>) {
    if inputs.facts.links.is_empty() {
        let message = "no link device exists (any more), so no VIP can be added; the VIPs are added again when a link device is back";
        problems.push(Problem {
            subject: Subject::Link("devices".to_owned()),
            reason: ProblemReason::LinkMissing,
            message: message.to_owned(),
        });
        keep_only_held(inputs, state);
        if inputs.policy.announce == Announce::L2 {
            return;
        }
    }
    let mut vips: BTreeMap<IpAddr, BTreeSet<&ServiceName>> = BTreeMap::new();
    for (name, status) in &state.statuses {
        for vip in status.addresses() {
            vips.entry(vip).or_default().insert(name);
        }
    }
    let is_own = |vip| inputs.facts.all_links().any(|link| link.has_foreign(vip));
    state.on_own_addresses =
        state.frontends.keys().filter(|frontend| is_own(frontend.vip)).copied().collect();
    let mut outside: BTreeMap<&ServiceName, Vec<String>> = BTreeMap::new();
    for (vip, services) in vips {
        if is_own(vip) {
            continue; // The machine has it already. llb did not add it, so llb never removes it.
        }
        if was_the_links_own(inputs, vip, &services) {
            // It is served again when the link has it back; llb must not add it itself.
            let message = format!(
                "its VIP {vip} was an own address of a link device and is gone, so no client reaches it; give the \
                 link that address back, or another one, to which the Service then moves"
            );
            let gone =
                |name: &&ServiceName| Problem::of_service(name, ProblemReason::AddressGone, message.clone());
            problems.extend(services.iter().map(gone));
            continue;
        }
        let (link, prefix_length, is_found) = place(inputs, vip);
        let key = AddressKey { link: link.to_owned(), address: vip };
        let is_here = inputs.holding.has(link, vip);
        if is_here { &mut state.addresses } else { &mut state.elsewhere }.insert(key, prefix_length);
        if !is_found {
            for name in services {
                outside.entry(name).or_default().push(format!("{vip}/{prefix_length}"));
            }
        }
    }
    problems.extend(outside.into_iter().map(|(name, vips)| in_no_subnet(inputs, name, &vips)));
}

/// The link that a VIP is added to, with which prefix length, and whether clients can be expected to find it there.
fn place(inputs: Inputs<'_>, vip: IpAddr) -> (&str, u8, bool) {
    let Inputs { facts, policy, .. } = inputs;
    let alone = Family::of(vip).host_prefix();
    let first = facts.links.first().filter(|_| policy.announce == Announce::L2);
    let Some(first) = first else { return (VIP_LINK, alone, true) };
    match facts.links.iter().find_map(|link| Some((link, link.prefix_length_for(vip)?))) {
        Some((link, prefix_length)) => (&link.name, prefix_length, true),
        None => {
            let is_routed = policy.pools.iter().any(|pool| pool.is_routed() && pool.contains(vip));
            (&first.name, alone, is_routed)
        }
    }
}

fn in_no_subnet(inputs: Inputs<'_>, name: &ServiceName, vips: &[String]) -> Problem {
    let link = inputs.facts.links.first().map(|link| &*link.name).unwrap_or_default();
    let (its, are, they) = match vips.len() {
        1 => ("VIP", "is", "it"),
        _ => ("VIPs", "are", "them"),
    };
    let message = format!(
        "its {its} {} {are} in no subnet of any link device, and so on {link}; clients reach {they} only where a route to this \
         machine exists; if there is one, let the operator say so with the option +routed=true of a --pool",
        vips.join(", ")
    );
    Problem::of_service(name, ProblemReason::NoSubnet, message)
}

/// Whether a VIP was the link's own address: nobody asked for it, and there are no
/// pools. Now no link has an address of its family, so it may be back in a moment.
fn was_the_links_own(inputs: Inputs<'_>, vip: IpAddr, services: &BTreeSet<&ServiceName>) -> bool {
    let asks = |name: &&ServiceName| {
        inputs.snapshot.services.get(*name).is_some_and(|service| service.requested_vips.contains(&vip))
    };
    let has_family = |link: &Link| link.primary_address(Family::of(vip)).is_some();
    inputs.policy.has_no_pools() && !inputs.facts.links.iter().any(has_family) && !services.iter().any(asks)
}

/// Without a link no new VIP is published, and published ones stay published.
fn keep_only_held(inputs: Inputs<'_>, state: &mut State) {
    for (name, status) in &mut state.statuses {
        let held = inputs.held.get(name).map(PublishedStatus::addresses).unwrap_or_default();
        status.vips = status.vips.iter().filter(|vip| held.contains(&vip.ip)).cloned().collect();
    }
}
