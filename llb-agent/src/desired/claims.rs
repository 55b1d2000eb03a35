// SPDX-License-Identifier: Apache-2.0
//! Which VIPs a Service asks for or has already, and for which families it still
//! needs one. Not: which Service gets a VIP that several ask for (`allocate.rs`).

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use super::frontends::frontends_of;
use super::inputs::Inputs;
use super::ours::ours;
use super::permission::Permissions;
use super::refused::is_refused;
use super::routed;
use crate::model::{Family, Frontend, Link, Problem, ProblemReason, PublishedStatus, Service, ServiceName};

/// What one Service wants.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) service: &'a Service,
    /// The VIPs that it asks for or keeps. No other VIP can replace them.
    pub(super) vips: Vec<IpAddr>,
    /// The VIPs that it needs besides, from a pool or the link.
    pub(super) open: Vec<Want>,
    /// The VIPs that it has now, if it may keep them. It gets these if it cannot get what it asks for.
    pub(super) held: Vec<IpAddr>,
}

/// One VIP still to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// `None`: of any family, IPv4 first.
    pub(super) family: Option<Family>,
    /// The Service is refused if there is no such VIP.
    pub(super) needed: bool,
}

/// The claims of all our Services, in the order in which they are granted: older
/// Services first, then by name. (What Services hold already is reserved before that.)
/// `on_links` are all addresses of this machine, also those that llb added.
pub(super) fn collect<'a>(
    inputs: Inputs<'a>,
    permissions: &Permissions<'a>,
    on_links: &HashSet<IpAddr>,
    problems: &mut Vec<Problem>,
) -> Vec<Claim<'a>> {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for (name, service) in ours(inputs) {
        match claim(inputs, permissions, on_links, name, service, problems) {
            Ok(claim) => {
                let is_kept = |vip: &&IpAddr| claim.held.contains(vip);
                let kept: Vec<IpAddr> = claim.vips.iter().filter(is_kept).copied().collect();
                problems.extend(permissions.outside_of_pools(name, service, &kept));
                claims.push(claim);
            }
            Err(problem) => problems.extend(problem),
        }
    }
    claims.sort_by_key(|claim| (claim.service.created, claim.name));
    claims
}

impl Claim<'_> {
    /// The frontends that it holds: those that are published for it.
    pub(super) fn held_frontends(&self, held: &PublishedStatus) -> Vec<Frontend> {
        let ports = held.vips.iter().flat_map(|vip| vip.ports.iter().map(move |port| (vip.ip, port)));
        let served = ports.filter(|(_, port)| !is_refused(port.error.as_deref()));
        let known: BTreeSet<(IpAddr, u16, &str)> =
            served.map(|(vip, port)| (vip, port.port, port.protocol.as_str())).collect();
        let is_known = |frontend: &Frontend| {
            known.contains(&(frontend.vip, frontend.port.get(), frontend.protocol.name()))
        };
        frontends_of(self.service, &self.held).map(|(frontend, _)| frontend).filter(is_known).collect()
    }
}

/// `Err(None)`: the Service is refused, and the snapshot already has the problem.
fn claim<'a>(
    inputs: Inputs<'a>,
    permissions: &Permissions<'a>,
    on_links: &HashSet<IpAddr>,
    name: &'a ServiceName,
    service: &'a Service,
    problems: &mut Vec<Problem>,
) -> Result<Claim<'a>, Option<Problem>> {
    if let Some(problem) = routed::refused(inputs, name, service) {
        return Err(Some(problem));
    }
    let mut held = inputs.held.get(name).map(PublishedStatus::addresses).unwrap_or_default();
    // Somebody may use the address by now, or another load balancer may have left it in the status.
    held.retain(|&vip| {
        let Some(what) = permissions.unfit(vip) else { return true };
        let message = format!("its VIP {vip} is {what}, so llb no longer serves the Service there");
        problems.push(Problem::of_service(name, ProblemReason::AddressNotAllowed, message));
        false
    });
    let held: Vec<IpAddr> = held.into_iter().filter(|&vip| wants_family(service, Family::of(vip))).collect();
    if service.ports.is_empty() {
        let message = "it has no port that llb can serve; give it one with protocol TCP or UDP";
        let problem = Problem::of_service(name, ProblemReason::InvalidValue, message);
        return keep_all(name, service, held, Some(problem), problems);
    }
    let mut new_requests = service.requested_vips.iter().filter(|vip| !held.contains(vip));
    let forbidden = new_requests.find_map(|&vip| permissions.check(name, service, vip).err());
    if service.invalid || forbidden.is_some() {
        return keep_all(name, service, held, forbidden, problems);
    }
    if let Some(vip) = service.requested_vips.iter().find(|&&vip| !wants_family(service, Family::of(vip))) {
        let message = format!(
            "it asks for {vip}, but its ipFamilies have no {}; add the family or ask for another address",
            Family::of(*vip)
        );
        let problem = Problem::of_service(name, ProblemReason::InvalidValue, message);
        return keep_all(name, service, held, Some(problem), problems);
    }

    let mut claim =
        Claim { name, service, vips: service.requested_vips.clone(), open: Vec::new(), held: held.clone() };
    // Until the requested VIPs are on a link, clients go on with those that are. Another host may
    // have a requested one, and then it is never there.
    let is_there = |vip: &&IpAddr| on_links.contains(vip);
    if !service.requested_vips.iter().all(|vip| is_there(&vip)) {
        claim.vips.extend(held.iter().filter(is_there).filter(|vip| !service.requested_vips.contains(vip)));
    }
    for want in wants(service) {
        let has = |vips: &[IpAddr]| {
            vips.iter().any(|&vip| want.family.is_none_or(|family| Family::of(vip) == family))
        };
        if has(&claim.vips) {
            continue;
        }
        let kept = held.iter().copied().find(|&vip| {
            want.family.is_none_or(|family| Family::of(vip) == family) && may_keep(inputs, on_links, vip)
        });
        match kept {
            Some(vip) => claim.vips.push(vip),
            None => claim.open.push(want),
        }
    }
    Ok(claim)
}

/// A Service does not lose what it has because of a request that cannot be fulfilled.
fn keep_all<'a>(
    name: &'a ServiceName,
    service: &'a Service,
    held: Vec<IpAddr>,
    problem: Option<Problem>,
    problems: &mut Vec<Problem>,
) -> Result<Claim<'a>, Option<Problem>> {
    if held.is_empty() {
        return Err(problem);
    }
    problems.extend(problem);
    Ok(Claim { name, service, vips: held.clone(), open: Vec::new(), held })
}

fn wants_family(service: &Service, family: Family) -> bool {
    service.families.is_empty() || service.families.contains(&family)
}

/// One VIP of each family; if the Service names no family, one of any.
/// PreferDualStack needs only its first family.
fn wants(service: &Service) -> Vec<Want> {
    if service.families.is_empty() {
        return vec![Want { family: None, needed: true }];
    }
    let want = |(position, &family): (usize, &Family)| Want {
        family: Some(family),
        needed: service.needs_every_family || position == 0,
    };
    service.families.iter().enumerate().map(want).collect()
}

/// Whether a Service may keep a VIP that it did not ask for.
///
/// With pools it keeps every VIP, even after the pools change. Without pools the VIP
/// was a link's own address. It is kept while it is on a link, because it is still ours,
/// or while no link has an address of that family, because it may only be away for a
/// moment. If the link has another address instead (a new DHCP lease), the old one may
/// belong to another machine by now.
fn may_keep(inputs: Inputs<'_>, on_links: &HashSet<IpAddr>, vip: IpAddr) -> bool {
    let links = &inputs.facts.links;
    let has_other = |link: &Link| link.primary_address(Family::of(vip)).is_some();
    !inputs.policy.has_no_pools() || on_links.contains(&vip) || !links.iter().any(has_other)
}
