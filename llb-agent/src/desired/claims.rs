//! Which VIPs a Service asks for or has already, and for which families it
//! still needs one. Not: who gets them (`allocate.rs`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Inputs, ours, refuse};
use crate::model::{
    Family, Pool, Problem, ProblemReason, PublishedStatus, Service, ServiceName, ServicePort,
};

/// What one Service wants.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) service: &'a Service,
    /// Asked for, or kept: these and no others will do.
    pub(super) vips: Vec<IpAddr>,
    /// One more VIP of each of these is wanted from a pool or the link.
    pub(super) open: Vec<Want>,
}

/// One VIP still to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// `None`: of any family, IPv4 first.
    pub(super) family: Option<Family>,
    /// Without it the Service is refused.
    pub(super) needed: bool,
}

/// The claims of all our Services, in the order in which they are granted:
/// who has its VIPs already comes first, then the older, then by name.
///
/// That a holder goes first keeps connections alive: an older Service that is
/// edited to want a VIP and port that a younger one has served is the newcomer.
pub(super) fn collect<'a>(inputs: Inputs<'a>, problems: &mut Vec<Problem>) -> Vec<Claim<'a>> {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for (name, service) in ours(inputs) {
        match claim(inputs, name, service, problems) {
            Ok(claim) => claims.push(claim),
            Err(problem) => problems.extend(problem),
        }
    }
    // Once for each, not once for each comparison.
    claims.sort_by_cached_key(|claim| {
        let holds = inputs.held.get(claim.name).is_some_and(|held| claim.is_held(held));
        (!holds, claim.service.created, claim.name)
    });
    claims
}

impl Claim<'_> {
    /// Whether all its frontends are in `held`: then nobody may take them away.
    fn is_held(&self, held: &PublishedStatus) -> bool {
        let ports = held.vips.iter().flat_map(|vip| vip.ports.iter().map(move |port| (vip.ip, port)));
        let known: BTreeSet<(IpAddr, u16, &str)> =
            ports.map(|(vip, port)| (vip, port.port, port.protocol.as_str())).collect();
        let holds = |vip, port: &ServicePort| known.contains(&(vip, port.port.get(), port.protocol.name()));
        !self.vips.is_empty()
            && self.vips.iter().all(|&vip| self.service.ports.iter().all(|port| holds(vip, port)))
    }
}

/// `Err(None)`: refused for a problem that is in the snapshot already.
fn claim<'a>(
    inputs: Inputs<'a>,
    name: &'a ServiceName,
    service: &'a Service,
    problems: &mut Vec<Problem>,
) -> Result<Claim<'a>, Option<Problem>> {
    let held = inputs.held.get(name).map(PublishedStatus::addresses).unwrap_or_default();
    if service.ports.is_empty() {
        let message = "it has no port that llb can serve; give it one with protocol TCP or UDP";
        return Err(Some(refuse(name, ProblemReason::InvalidValue, message)));
    }
    let mut newcomers = service.requested_vips.iter().filter(|vip| !held.contains(vip));
    let forbidden = newcomers.find_map(|&vip| forbidden(inputs, name, vip));
    // A request that makes no sense must not cost a Service what it has.
    let keeps = service.invalid || forbidden.is_some();
    if keeps && held.is_empty() {
        return Err(forbidden);
    }
    problems.extend(forbidden);
    let requested = if keeps { held.iter().copied().collect() } else { service.requested_vips.clone() };
    if let Some(vip) = requested.iter().find(|&&vip| !wants_family(service, Family::of(vip))) {
        let message = format!(
            "it asks for {vip}, but its ipFamilies have no {}; add the family or ask for another address",
            Family::of(*vip)
        );
        return Err(Some(refuse(name, ProblemReason::InvalidValue, message)));
    }

    let mut claim = Claim { name, service, vips: requested, open: Vec::new() };
    for want in wants(service) {
        let has = |vips: &[IpAddr]| {
            vips.iter().any(|&vip| want.family.is_none_or(|family| Family::of(vip) == family))
        };
        if has(&claim.vips) {
            continue;
        }
        let kept = held
            .iter()
            .copied()
            .find(|&vip| want.family.is_none_or(|family| Family::of(vip) == family) && may_keep(inputs, vip));
        match kept {
            Some(vip) => claim.vips.push(vip),
            None => claim.open.push(want),
        }
    }
    Ok(claim)
}

/// A VIP in a pool that is kept for other namespaces.
fn forbidden(inputs: Inputs<'_>, name: &ServiceName, vip: IpAddr) -> Option<Problem> {
    let pool = inputs.policy.pools.iter().find(|pool| pool.contains(vip))?;
    if pool.is_open_to(&name.namespace) {
        return None;
    }
    let message = format!("it asks for {vip}, but {}; ask for another address", closed(pool, name));
    Some(refuse(name, ProblemReason::PoolNotAllowed, message))
}

/// In words that `forbidden` and the allocation share.
pub(super) fn closed(pool: &Pool, name: &ServiceName) -> String {
    let namespaces: Vec<&str> = pool.namespaces().iter().map(String::as_str).collect();
    format!("--pool {pool} is for namespace {} only, not for {}", namespaces.join(", "), name.namespace)
}

fn wants_family(service: &Service, family: Family) -> bool {
    service.families.is_empty() || service.families.contains(&family)
}

/// One VIP of each family, or, where the Service leaves it open, one of any.
/// PreferDualStack needs its first family only.
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

/// With pools, whatever a Service has is kept, even when the pools change.
/// Without, a VIP is kept while it is on a link: a link's own address that
/// was taken away (a new DHCP lease) may belong to another machine now.
fn may_keep(inputs: Inputs<'_>, vip: IpAddr) -> bool {
    let on_a_link = |vip| {
        inputs.facts.links.iter().any(|link| link.addresses.iter().any(|known| known.net.addr() == vip))
    };
    !inputs.policy.pools.is_empty() || on_a_link(vip)
}
