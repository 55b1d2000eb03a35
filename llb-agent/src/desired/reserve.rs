// SPDX-License-Identifier: Apache-2.0
//! Who gets a frontend. A Service keeps the frontends that it holds. It gets a
//! new one if no other Service has it, if the others on that VIP share it, and
//! if the port is not kept for the machine. Not: which address (`allocate.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::claims::Claim;
use super::frontends::frontends_of;
use super::inputs::Inputs;
use super::refused::{
    FRONTEND_COLLISION, NAMESPACE_LIMIT, PORT_NOT_ALLOWED, Refused, TOO_MANY_FRONTENDS, VIP_NOT_SHARED,
};
use crate::model::{Frontend, Problem, ProblemReason, ServiceName};

/// Frontends that one Service may have. Each costs a listener, and all Services
/// share the descriptors.
const MOST_FRONTENDS: usize = 1024;

/// Refused frontends of one Service that are told one by one. Its status names all of them.
const MOST_TOLD: usize = 20;

/// The frontends that are taken, and who may join whom on a VIP.
pub(super) struct Reservations<'a> {
    inputs: Inputs<'a>,
    taken: BTreeMap<Frontend, &'a ServiceName>,
    /// One of the Services on each VIP. All of them share it, so one is enough to ask.
    tenants: BTreeMap<IpAddr, Tenant<'a>>,
    /// The Services on each VIP.
    members: BTreeSet<(IpAddr, &'a ServiceName)>,
    /// What the Services of each namespace have.
    usage: BTreeMap<&'a str, Usage>,
}

/// What the Services of one namespace have, or what one Service is about to get.
#[derive(Default)]
struct Usage {
    /// Without the machine's own addresses, which all Services may share; with those that rest.
    vips: BTreeSet<IpAddr>,
    frontends: usize,
}

#[derive(Clone, Copy)]
struct Tenant<'a> {
    name: &'a ServiceName,
    sharing_key: Option<&'a str>,
}

/// Why a frontend is not given.
enum Refusal<'a> {
    Port(String),
    TakenBy(&'a ServiceName),
    NotSharedBy(&'a ServiceName),
    /// What the namespace has too many of, how many it can have, and the flag that says so.
    NamespaceFull(&'static str, usize, &'static str),
}

impl<'a> Reservations<'a> {
    /// Everything that Services hold is theirs before anybody gets something new: a port
    /// that is added, or an older Service that is edited, never costs those that are there.
    pub(super) fn of_holders(inputs: Inputs<'a>, claims: &[Claim<'a>]) -> Self {
        let mut this = Self {
            inputs,
            taken: BTreeMap::new(),
            tenants: BTreeMap::new(),
            members: BTreeSet::new(),
            usage: BTreeMap::new(),
        };
        for claim in claims {
            let held = inputs.held.get(claim.name).map(|held| claim.held_frontends(held));
            for frontend in held.unwrap_or_default() {
                this.take(claim, frontend);
            }
            // A Service may have no port that llb can serve just now.
            for &vip in &claim.held {
                this.join(claim, vip);
            }
        }
        // Released VIPs are nobody's for a while. Otherwise a tenant could let a whole pool rest.
        for (&vip, former) in inputs.resting {
            this.use_vip(&former.namespace, vip);
        }
        this
    }

    /// Takes all frontends of a Service that has none yet, or none. A Service that has
    /// some gets those of the others that are free.
    ///
    /// # Errors
    /// Nothing is given; the first reason.
    pub(super) fn reserve(
        &mut self,
        claim: &Claim<'a>,
        vips: &[IpAddr],
        problems: &mut Vec<Problem>,
    ) -> Result<Refused, Problem> {
        let too_many = too_many(claim, vips);
        // One that has nothing yet is refused at once: it may ask for thousands, and there may be thousands of it.
        if let (true, Some(problem)) = (claim.held.is_empty(), &too_many) {
            return Err(problem.clone());
        }
        let frontends: Vec<Frontend> =
            frontends_of(claim.service, vips).map(|(frontend, _)| frontend).collect();
        let is_own = |frontend: &Frontend| self.taken.get(frontend) == Some(&claim.name);
        let mut room =
            MOST_FRONTENDS - frontends.iter().filter(|frontend| is_own(frontend)).count().min(MOST_FRONTENDS);
        let has_some = room < MOST_FRONTENDS;
        let (mut refused, mut coming) = (Refused::new(), Usage::default());
        let mut told: Vec<Problem> = too_many.into_iter().collect();
        for &frontend in &frontends {
            if let Some(refusal) = self.refusal(claim, frontend, &coming) {
                if !has_some {
                    told.push(refusal.problem(claim.name, frontend));
                    return Err(told.swap_remove(0));
                }
                refused.insert(frontend, refusal.status_error());
                if told.len() < MOST_TOLD {
                    told.push(refusal.problem(claim.name, frontend));
                }
            } else if !is_own(&frontend) {
                match room.checked_sub(1) {
                    Some(left) => {
                        room = left;
                        coming.frontends += 1;
                        coming.vips.insert(frontend.vip);
                    }
                    None => drop(refused.insert(frontend, TOO_MANY_FRONTENDS)),
                }
            }
        }
        let is_held = |frontend: &Frontend| is_own(frontend) && !refused.contains_key(frontend);
        if !told.is_empty() && !frontends.iter().any(is_held) {
            return Err(told.swap_remove(0));
        }
        problems.append(&mut told);
        for frontend in frontends.into_iter().filter(|frontend| !refused.contains_key(frontend)) {
            self.take(claim, frontend);
        }
        Ok(refused)
    }

    fn take(&mut self, claim: &Claim<'a>, frontend: Frontend) {
        if self.taken.insert(frontend, claim.name).is_none() {
            self.usage.entry(&claim.name.namespace).or_default().frontends += 1;
        }
        self.join(claim, frontend.vip);
    }

    fn join(&mut self, claim: &Claim<'a>, vip: IpAddr) {
        let tenant = Tenant { name: claim.name, sharing_key: claim.service.sharing_key.as_deref() };
        self.tenants.entry(vip).or_insert(tenant);
        self.members.insert((vip, claim.name));
        self.use_vip(&claim.name.namespace, vip);
    }

    fn use_vip(&mut self, namespace: &'a str, vip: IpAddr) {
        if !self.is_own(vip) {
            self.usage.entry(namespace).or_default().vips.insert(vip);
        }
    }

    /// `coming`: what the Service is about to get besides.
    fn refusal(&self, claim: &Claim<'a>, frontend: Frontend, coming: &Usage) -> Option<Refusal<'a>> {
        if let Some(what) = self.reserved_port(frontend) {
            return Some(Refusal::Port(what));
        }
        match self.taken.get(&frontend) {
            Some(&owner) if owner == claim.name => return None,
            Some(&owner) => return Some(Refusal::TakenBy(owner)),
            None => {}
        }
        if let Some(tenant) = self.tenants.get(&frontend.vip)
            && !self.may_join(claim, *tenant, frontend.vip)
        {
            return Some(Refusal::NotSharedBy(tenant.name));
        }
        self.namespace_limit(&claim.name.namespace, frontend, coming)
    }

    /// The limit of the namespace that another frontend would exceed.
    fn namespace_limit(&self, namespace: &str, frontend: Frontend, coming: &Usage) -> Option<Refusal<'a>> {
        let nothing = Usage::default();
        let used = self.usage.get(namespace).unwrap_or(&nothing);
        let policy = self.inputs.policy;
        let most = policy.namespace_frontends;
        if used.frontends + coming.frontends >= most {
            return Some(Refusal::NamespaceFull("frontends", most, "--namespace-frontends"));
        }
        let is_known = used.vips.contains(&frontend.vip) || coming.vips.contains(&frontend.vip);
        // Those that are coming are few, and those of the namespace may be thousands.
        let new =
            || coming.vips.iter().filter(|vip| !used.vips.contains(*vip) && !self.is_own(**vip)).count();
        let most = policy.namespace_vips;
        let is_too_many = !is_known && !self.is_own(frontend.vip) && used.vips.len() + new() >= most;
        is_too_many.then_some(Refusal::NamespaceFull(
            "VIPs (released ones count until they have rested)",
            most,
            "--namespace-vips",
        ))
    }

    fn may_join(&self, claim: &Claim<'a>, tenant: Tenant<'a>, vip: IpAddr) -> bool {
        if self.members.contains(&(vip, claim.name)) || self.is_the_machines(vip) {
            return true;
        }
        let have_one_key =
            tenant.sharing_key.is_some() && tenant.sharing_key == claim.service.sharing_key.as_deref();
        let is_shared_by_all = || {
            self.inputs
                .policy
                .pools
                .iter()
                .any(|pool| pool.contains(vip) && pool.is_shared_across_namespaces())
        };
        have_one_key && (tenant.name.namespace == claim.name.namespace || is_shared_by_all())
    }

    /// The machine's own address, where no pool gives VIPs: all Services share it.
    fn is_the_machines(&self, vip: IpAddr) -> bool {
        self.inputs.policy.has_no_pools() && self.is_own(vip)
    }

    fn is_own(&self, vip: IpAddr) -> bool {
        self.inputs.facts.links.iter().any(|link| link.has_foreign(vip))
    }

    /// Why a port of the machine's own address is reserved.
    fn reserved_port(&self, frontend: Frontend) -> Option<String> {
        let port = frontend.port.get();
        let own_ports = &self.inputs.policy.own_ports;
        if !self.is_own(frontend.vip) || own_ports.is_allowed(port) {
            return None;
        }
        if let Some(what) = own_ports.reserved_for(port) {
            return Some(format!("is reserved for {what}"));
        }
        let ephemeral = self.inputs.facts.host.ephemeral_ports.as_ref()?;
        ephemeral.contains(&port).then(|| {
            let (first, last) = (ephemeral.start(), ephemeral.end());
            format!(
                "is one that the machine's own connections use (net.ipv4.ip_local_port_range {first}-{last})"
            )
        })
    }
}

/// A problem if the Service asks for more frontends than one can have.
fn too_many(claim: &Claim<'_>, vips: &[IpAddr]) -> Option<Problem> {
    let count = vips.len() * claim.service.ports.len();
    (count > MOST_FRONTENDS).then(|| {
        let message = format!(
            "it needs {count} frontends (VIPs times ports); one Service can have at most {MOST_FRONTENDS}"
        );
        Problem::of_service(claim.name, ProblemReason::InvalidValue, message)
    })
}

impl Refusal<'_> {
    fn status_error(&self) -> &'static str {
        match self {
            Self::Port(_) => PORT_NOT_ALLOWED,
            Self::TakenBy(_) => FRONTEND_COLLISION,
            Self::NotSharedBy(_) => VIP_NOT_SHARED,
            Self::NamespaceFull(..) => NAMESPACE_LIMIT,
        }
    }

    fn problem(&self, name: &ServiceName, frontend: Frontend) -> Problem {
        let (reason, message) = match self {
            Self::Port(what) => (
                ProblemReason::PortNotAllowed,
                format!(
                    "{frontend} is on the machine's own address, where port {} {what}; change the port, ask for another VIP, \
                     or let the operator open it with --allow-ports",
                    frontend.port
                ),
            ),
            Self::TakenBy(other) => (
                ProblemReason::FrontendCollision,
                format!(
                    "{frontend} is already served for Service {other}; change the port, or ask for another VIP with the annotation llb.dev/vips"
                ),
            ),
            Self::NotSharedBy(other) => (
                ProblemReason::VipNotShared,
                format!(
                    "{frontend}: Service {other} has the VIP; ask for another VIP, or give both Services, in one namespace, \
                     the same annotation llb.dev/sharing-key"
                ),
            ),
            Self::NamespaceFull(what, most, flag) => (
                ProblemReason::NamespaceLimit,
                format!(
                    "{frontend}: the Services of namespace {} have {most} {what}, and can have no more ({flag}); delete a Service, or \
                     let the operator raise the limit",
                    name.namespace
                ),
            ),
        };
        Problem::of_service(name, reason, message)
    }
}
