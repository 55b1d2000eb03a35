// SPDX-License-Identifier: Apache-2.0
//! Decides which VIPs and frontends each Service gets. A Service keeps what it has. A
//! Service that has nothing yet gets all that it asks for, or nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::claims::{Claim, Want};
use super::frontends::frontend_of;
use super::inputs::Inputs;
use super::permission::Permissions;
use super::refused::Refused;
use super::reserve::Reservations;
use crate::model::{Family, Pool, Problem, ProblemReason, Service, ServiceName};

/// What one Service gets.
pub(super) struct Grant<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) service: &'a Service,
    pub(super) vips: Vec<IpAddr>,
    /// Frontends that it asks for besides what it has, and does not get.
    pub(super) refused: Refused,
}

/// What each Service gets. A Service that is missing in the result is refused.
pub(super) fn allocate<'a>(
    inputs: Inputs<'a>,
    permissions: &Permissions<'a>,
    claims: Vec<Claim<'a>>,
    problems: &mut Vec<Problem>,
) -> Vec<Grant<'a>> {
    // All addresses that are asked for or held are taken from the pools before the
    // first free one is given, so the order of Services does not matter.
    let mut free = Free::new(inputs, permissions, &claims);
    let mut reservations = Reservations::of_holders(inputs, &claims);
    let mut grants = Vec::new();
    for claim in claims {
        let mut vips = match free.fill(inputs, &claim, problems) {
            Ok(vips) => vips,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let refused = match reservations.reserve(&claim, &vips, problems) {
            Ok(refused) => refused,
            Err(problem) => {
                problems.push(problem);
                free.give_back(&claim, &vips);
                vips.clone_from(&claim.held);
                match reservations.reserve(&claim, &vips, problems) {
                    Ok(refused) if !vips.is_empty() => refused,
                    Ok(_) | Err(_) => continue,
                }
            }
        };
        // A VIP on which the Service gets nothing that it asks for is not its VIP.
        vips.retain(|vip| {
            let mut ports = claim.service.ports.iter().map(|port| frontend_of(*vip, port)).peekable();
            ports.peek().is_none() || ports.any(|frontend| !refused.contains_key(&frontend))
        });
        grants.push(Grant { name: claim.name, service: claim.service, vips, refused });
    }
    grants
}

/// The addresses that can still be given.
struct Free<'a, 'p> {
    permissions: &'p Permissions<'a>,
    pools: Vec<FreeOfPool<'a>>,
    /// The links' own addresses are given.
    has_no_pools: bool,
    /// Addresses that were taken from a pool for a Service that was refused then.
    given_back: BTreeSet<IpAddr>,
    /// Addresses that must not be given: somebody asks for them, holds or uses them.
    used: BTreeSet<IpAddr>,
}

struct FreeOfPool<'a> {
    pool: &'a Pool,
    families: [(Family, Box<dyn Iterator<Item = IpAddr> + 'a>); 2],
}

impl<'a, 'p> Free<'a, 'p> {
    fn new(inputs: Inputs<'a>, permissions: &'p Permissions<'a>, claims: &[Claim<'_>]) -> Self {
        let asked_or_held = claims.iter().flat_map(|claim| claim.vips.iter().chain(&claim.held));
        let mut used: BTreeSet<IpAddr> = asked_or_held.copied().collect();
        let links = inputs.facts.links.iter().flat_map(|link| &link.addresses);
        used.extend(links.filter(|known| !known.ours).map(|known| known.net.addr()));
        // Other load balancers use the addresses that they publish.
        let services = inputs.snapshot.services.values();
        used.extend(services.flat_map(|service| service.status.addresses()));
        Self {
            permissions,
            given_back: BTreeSet::new(),
            pools: inputs.policy.pools.iter().map(FreeOfPool::new).collect(),
            has_no_pools: inputs.policy.has_no_pools(),
            used,
        }
    }

    /// The VIPs that the Service asks for or keeps, and a new one for each open want. A Service
    /// that has a VIP keeps it, even if there is no VIP of another family that it needs.
    fn fill(
        &mut self,
        inputs: Inputs<'_>,
        claim: &Claim<'_>,
        problems: &mut Vec<Problem>,
    ) -> Result<Vec<IpAddr>, Problem> {
        let mut vips = claim.vips.clone();
        for want in &claim.open {
            let given = if self.has_no_pools && claim.service.pool.is_none() {
                link_address(inputs, want.family)
            } else {
                self.take_from_pool(claim, want.family)
            };
            match given {
                Some(vip) => vips.push(vip),
                None if want.needed && claim.held.is_empty() => return Err(self.nothing_left(claim, want)),
                None if want.needed => problems.push(self.nothing_left(claim, want)),
                None => {}
            }
        }
        Ok(vips)
    }

    /// Lets the next Service have what was taken from the pools for this one. Otherwise Services that are
    /// refused could use up a pool.
    fn give_back(&mut self, claim: &Claim<'_>, vips: &[IpAddr]) {
        let of_pool = |vip: &&IpAddr| self.pools.iter().any(|free| free.pool.contains(**vip));
        let taken: Vec<IpAddr> =
            vips.iter().filter(|vip| !claim.vips.contains(vip)).filter(of_pool).copied().collect();
        self.given_back.extend(taken);
    }

    fn take_from_pool(&mut self, claim: &Claim<'_>, family: Option<Family>) -> Option<IpAddr> {
        for wanted in family.map_or(vec![Family::V4, Family::V6], |family| vec![family]) {
            let is_for = |vip: &&IpAddr| {
                Family::of(**vip) == wanted
                    && self.permissions.rests_from(claim.name, **vip).is_none()
                    && self.pools.iter().any(|free| free.is_for(claim) && free.pool.contains(**vip))
            };
            if let Some(vip) = self.given_back.iter().find(is_for).copied() {
                self.given_back.remove(&vip);
                return Some(vip);
            }
            let pools = self.pools.iter_mut().filter(|free| free.is_for(claim));
            let mut families =
                pools.flat_map(|free| &mut free.families).filter(|(family, _)| *family == wanted);
            let may_give = |vip: &IpAddr| {
                !self.used.contains(vip)
                    && self.permissions.unfit(*vip).is_none()
                    && self.permissions.rests_from(claim.name, *vip).is_none()
            };
            let free = families.find_map(|(_, addresses)| addresses.find(may_give));
            if free.is_some() {
                return free;
            }
        }
        None
    }

    fn nothing_left(&self, claim: &Claim<'_>, want: &Want) -> Problem {
        let (name, wanted_pool) = (claim.name, claim.service.pool.as_deref());
        let family = want.family.map(|family| format!("{family} ")).unwrap_or_default();
        let for_it = || self.pools.iter().filter(|free| free.is_for(claim)).map(|free| free.pool);
        let (reason, message) = if let Some(message) = wanted_pool.and_then(|pool| self.unknown(pool)) {
            (ProblemReason::InvalidValue, message)
        } else if self.has_no_pools {
            let message = format!(
                "no link device has its own {family}address to serve it on; give the link one, or start llb with --pool"
            );
            (ProblemReason::NoAddressOfFamily, message)
        } else if for_it().next().is_none() {
            let named =
                self.pools.iter().find(|free| wanted_pool.is_some() && free.pool.name() == wanted_pool);
            let closed = named.and_then(|free| Some((free.pool, free.pool.why_closed(name, claim.service)?)));
            let message = match closed {
                Some((pool, why)) => {
                    format!("--pool {pool} is for {why}; name another one with the annotation llb.dev/pool")
                }
                None => format!(
                    "every --pool is for Services of other namespaces, with other labels, or that name it; name one with the \
                     annotation llb.dev/pool, if one is for namespace {}",
                    name.namespace
                ),
            };
            (ProblemReason::PoolNotAllowed, message)
        } else if !for_it().any(|pool| want.family.is_none_or(|family| pool.has_family(family))) {
            let message = format!(
                "no --pool that the Service may use has {family}addresses; add one, or change the Service's ipFamilies"
            );
            (ProblemReason::NoAddressOfFamily, message)
        } else {
            let fits = for_it().filter(|pool| want.family.is_none_or(|family| pool.has_family(family)));
            let list: Vec<String> = fits.map(ToString::to_string).collect();
            let message = format!(
                "every {family}address of the pools is taken ({}); add a --pool, or delete a Service",
                list.join(", ")
            );
            (ProblemReason::PoolExhausted, message)
        };
        Problem::of_service(name, reason, message)
    }

    /// A message if no pool has this name.
    fn unknown(&self, wanted: &str) -> Option<String> {
        let names: Vec<&str> = self.pools.iter().filter_map(|free| free.pool.name()).collect();
        (!names.contains(&wanted)).then(|| {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            format!(
                "it asks for the pool {wanted:?}, but no --pool has that name; pools with a name: {known}"
            )
        })
    }
}

impl<'a> FreeOfPool<'a> {
    fn new(pool: &'a Pool) -> Self {
        let addresses = |family| (family, Box::new(pool.addresses(family)) as _);
        Self { pool, families: [Family::V4, Family::V6].map(addresses) }
    }

    /// Whether the Service may get a VIP from this pool.
    fn is_for(&self, claim: &Claim<'_>) -> bool {
        let chosen = match claim.service.pool.as_deref() {
            Some(name) => self.pool.name() == Some(name),
            None => self.pool.is_auto(),
        };
        chosen && self.pool.is_open_to(claim.name, claim.service)
    }
}

/// The own address of the first link that has one of this family.
fn link_address(inputs: Inputs<'_>, family: Option<Family>) -> Option<IpAddr> {
    let of = |family| inputs.facts.links.iter().find_map(|link| link.primary_address(family));
    match family {
        Some(family) => of(family),
        None => of(Family::V4).or_else(|| of(Family::V6)),
    }
}
