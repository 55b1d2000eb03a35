// SPDX-License-Identifier: Apache-2.0
//! What must hold in a world: at every moment, and once nothing changes any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use llb_agent::dataplane::DataPlane;
use llb_agent::model::{Link, Phase, ProblemReason, PublishedStatus};
use llb_agent::plan::NOT_SERVED;

use super::world::World;

impl World {
    /// Checks what must hold at every moment, during faults too.
    pub(crate) fn check_always(&mut self) {
        let seed = self.seed;
        let addresses = &self.agent.rooms.addresses.inner;
        assert!(!addresses.touched_foreign, "seed {seed}: a foreign address was touched");
        let of_link = |link: &Link| -> BTreeSet<IpAddr> {
            link.addresses.iter().map(|known| known.net.addr()).collect()
        };
        let there = addresses.links.first().or(self.unplugged.as_ref()).map(of_link).unwrap_or_default();
        assert!(self.foreign.is_subset(&there), "seed {seed}: a foreign address is gone");
        for (name, status) in &self.statuses.inner.lock().statuses {
            let vips = status.addresses();
            let current =
                self.report.desired.statuses.get(name).map(PublishedStatus::addresses).unwrap_or_default();
            if vips.is_empty() || current != vips || self.unseen.contains(name) {
                continue;
            }
            self.given.entry(name.clone()).or_insert(vips);
        }
        // A Service that has a VIP and was not changed since keeps it, unless it still waits for another one.
        let waits = |name, vips: &BTreeSet<IpAddr>| {
            let service = self.snapshot.services.get(name);
            service.is_some_and(|service| service.requested_vips.iter().any(|vip| !vips.contains(vip)))
        };
        // When it has got that one, it gives up the other.
        let is_requested = |name, vips: &BTreeSet<IpAddr>| {
            let service = self.snapshot.services.get(name);
            let requested = service.map(|service| service.requested_vips.iter().copied().collect());
            requested.is_some_and(|requested: BTreeSet<IpAddr>| !requested.is_empty() && requested == *vips)
        };
        for (name, before) in self.given.iter().filter(|(name, before)| !waits(*name, before)) {
            let current =
                self.report.desired.statuses.get(name).map(PublishedStatus::addresses).unwrap_or_default();
            assert!(
                self.unseen.contains(name)
                    || current == *before
                    || (is_requested(name, &current) && current.is_subset(before)),
                "seed {seed}: {name} had {before:?}, now {current:?}"
            );
        }
    }

    /// Checks what must hold after every round.
    pub(crate) fn check_round(&mut self) {
        let seed = self.seed;
        let serving = self.serving();
        let addresses = &self.agent.rooms.addresses.inner;
        let on_link: BTreeSet<IpAddr> =
            addresses.links.iter().flat_map(|link| &link.addresses).map(|known| known.net.addr()).collect();
        let is_free = |vip| self.unplugged.is_none() && !addresses.taken.contains(vip);
        for frontend in serving.difference(&self.before.serving) {
            let vip = &frontend.vip;
            assert!(on_link.contains(vip) || is_free(vip), "seed {seed}: {frontend} is not this machine's");
        }
        for vip in self.published().difference(&self.before.published) {
            assert!(on_link.contains(vip), "seed {seed}: {vip} is published, and on no link");
        }
    }

    /// Checks what must hold once nothing changes any more.
    pub(crate) fn check_converged(&mut self) {
        let seed = self.seed;
        let desired = &self.report.desired;
        let observed = self.agent.rooms.plane.observe();
        let serving: BTreeMap<_, _> = observed
            .iter()
            .filter(|(_, status)| status.phase == Phase::Serving)
            .filter_map(|(frontend, status)| Some((*frontend, status.rule.clone()?)))
            .collect();
        assert_eq!(serving, desired.frontends, "seed {seed}: frontends");
        let ours = self.agent.rooms.addresses.inner.links[0].addresses.iter().filter(|known| known.ours);
        let ours: BTreeSet<IpAddr> = ours.map(|known| known.net.addr()).collect();
        let wanted: BTreeSet<IpAddr> = desired.addresses.keys().map(|key| key.address).collect();
        assert_eq!(ours, wanted, "seed {seed}: addresses");
        let reserved = &self.agent.rooms.addresses.inner.host.reserved;
        assert!(
            !ours.iter().any(|vip| reserved.contains_key(vip)),
            "seed {seed}: the machine's gateway is a VIP"
        );
        let vips: BTreeSet<IpAddr> = desired.statuses.values().flat_map(PublishedStatus::addresses).collect();
        assert!(wanted.is_subset(&vips), "seed {seed}: an address of no Service");

        let published = &self.statuses.inner.lock().statuses;
        for (name, service) in &self.snapshot.services {
            assert!(!service.deleting, "seed {seed}: {name} is kept for ever");
            let status = published.get(name).cloned().unwrap_or_default();
            let wanted = desired.statuses.get(name).cloned().unwrap_or_default();
            let errors = status
                .vips
                .iter()
                .flat_map(|vip| &vip.ports)
                .filter(|port| port.error.as_deref() == Some(NOT_SERVED));
            assert_eq!(errors.count(), 0, "seed {seed}: {name}: {status:?}");
            assert_eq!(status, wanted, "seed {seed}: {name}");
        }
        for problem in &self.report.problems {
            let healed = [ProblemReason::ActionFailed, ProblemReason::VipConflict];
            assert!(!healed.contains(&problem.reason), "seed {seed}: {problem}");
        }
    }
}
