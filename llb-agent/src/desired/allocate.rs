//! Grants claims: every Service gets all its VIPs with all its ports, or none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::claims::{Claim, Want};
use super::{Inputs, refuse};
use crate::model::{Family, Frontend, Pool, Problem, ProblemReason, Service, ServiceName};

/// The VIPs of each Service that is served.
pub(super) fn allocate(
    inputs: Inputs<'_>,
    claims: Vec<Claim<'_>>,
    problems: &mut Vec<Problem>,
) -> Vec<(ServiceName, Vec<IpAddr>)> {
    // Everything that is asked for or held is out of the pools before the
    // first free address is given, so the order of Services does not matter.
    let mut free = Free::new(inputs, &claims);
    let mut taken: BTreeMap<Frontend, ServiceName> = BTreeMap::new();
    let mut granted = Vec::new();
    for claim in claims {
        let result = free.fill(inputs, &claim).and_then(|vips| {
            reserve(&claim, &vips, &mut taken)?;
            Ok(vips)
        });
        match result {
            Ok(vips) => granted.push((claim.name.clone(), vips)),
            Err(problem) => problems.push(problem),
        }
    }
    granted
}

/// Takes all frontends of a Service, or none.
fn reserve(
    claim: &Claim<'_>,
    vips: &[IpAddr],
    taken: &mut BTreeMap<Frontend, ServiceName>,
) -> Result<(), Problem> {
    let frontends: Vec<Frontend> = frontends_of(claim.service, vips).collect();
    for frontend in &frontends {
        if let Some(other) = taken.get(frontend) {
            let message = format!(
                "{frontend} is served for Service {other}; change the port, or ask for another VIP with the annotation llb.dev/vips"
            );
            return Err(refuse(claim.name, ProblemReason::FrontendCollision, message));
        }
    }
    taken.extend(frontends.into_iter().map(|frontend| (frontend, claim.name.clone())));
    Ok(())
}

fn frontends_of<'a>(service: &'a Service, vips: &'a [IpAddr]) -> impl Iterator<Item = Frontend> + 'a {
    vips.iter().flat_map(move |&vip| {
        service.ports.iter().map(move |port| Frontend { vip, port: port.port, protocol: port.protocol })
    })
}

/// Addresses that nobody has.
struct Free<'a> {
    pools: Vec<(&'a Pool, Box<dyn Iterator<Item = IpAddr> + 'a>)>,
    /// Must not be given: asked for, held, or in use by somebody else.
    used: BTreeSet<IpAddr>,
}

impl<'a> Free<'a> {
    fn new(inputs: Inputs<'a>, claims: &[Claim<'_>]) -> Self {
        let mut used: BTreeSet<IpAddr> = claims.iter().flat_map(|claim| claim.vips.iter().copied()).collect();
        let links = inputs.facts.links.iter().flat_map(|link| &link.addresses);
        used.extend(links.filter(|known| !known.ours).map(|known| known.net.addr()));
        let nodes = inputs.snapshot.nodes.values();
        used.extend(nodes.flat_map(|node| node.internal.iter().chain(&node.external).copied()));
        // What a Service of somebody else publishes is in use too.
        let services = inputs.snapshot.services.values();
        used.extend(services.flat_map(|service| service.status.addresses()));
        let pools = inputs.policy.pools.iter();
        Self { pools: pools.map(|pool| (pool, Box::new(pool.addresses()) as _)).collect(), used }
    }

    /// What the Service asks for, and one VIP for each want that is open.
    fn fill(&mut self, inputs: Inputs<'_>, claim: &Claim<'_>) -> Result<Vec<IpAddr>, Problem> {
        let mut vips = claim.vips.clone();
        for want in &claim.open {
            let given = if self.pools.is_empty() {
                link_address(inputs, want.family)
            } else {
                self.take_from_pool(want.family)
            };
            match given {
                Some(vip) => vips.push(vip),
                None if want.needed => return Err(self.nothing_left(claim.name, want)),
                None => {}
            }
        }
        Ok(vips)
    }

    fn take_from_pool(&mut self, family: Option<Family>) -> Option<IpAddr> {
        let fits = |pool: &Pool, wanted: Family| pool.family() == wanted;
        for wanted in family.map_or(vec![Family::V4, Family::V6], |family| vec![family]) {
            for (_, addresses) in self.pools.iter_mut().filter(|(pool, _)| fits(pool, wanted)) {
                if let Some(vip) = addresses.find(|vip| !self.used.contains(vip)) {
                    return Some(vip);
                }
            }
        }
        None
    }

    fn nothing_left(&self, name: &ServiceName, want: &Want) -> Problem {
        let family = want.family.map(|family| format!("{family} ")).unwrap_or_default();
        let mut pools = self
            .pools
            .iter()
            .map(|(pool, _)| pool)
            .filter(|pool| want.family.is_none_or(|f| pool.family() == f));
        if self.pools.is_empty() {
            let message = format!(
                "no link device has its own {family}address to serve it on; give the link one, or start llb with --pool"
            );
            refuse(name, ProblemReason::NoAddressOfFamily, message)
        } else if pools.clone().next().is_none() {
            let message =
                format!("no --pool has {family}addresses; add one, or change the Service's ipFamilies");
            refuse(name, ProblemReason::NoAddressOfFamily, message)
        } else {
            let first = pools.next().map(ToString::to_string).unwrap_or_default();
            let list = pools.fold(first, |list, pool| format!("{list}, {pool}"));
            let message = format!(
                "every {family}address of the pools is taken ({list}); add a --pool, or delete a Service"
            );
            refuse(name, ProblemReason::PoolExhausted, message)
        }
    }
}

/// The first link's own address.
fn link_address(inputs: Inputs<'_>, family: Option<Family>) -> Option<IpAddr> {
    let of = |family| inputs.facts.links.iter().find_map(|link| link.primary_address(family));
    match family {
        Some(family) => of(family),
        None => of(Family::V4).or_else(|| of(Family::V6)),
    }
}
