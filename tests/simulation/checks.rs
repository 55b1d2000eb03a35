// SPDX-License-Identifier: Apache-2.0
//! What must hold in a world: at every moment, and once nothing changes any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use llb_agent::dataplane::DataPlane;
use llb_agent::model::{Phase, ProblemReason, PublishedStatus};
use llb_agent::plan::NOT_SERVED;

use super::world::World;

impl World {
    /// Checks what must hold at every moment, during faults too.
    pub(crate) fn check_always(&mut self) {
        let seed = self.seed;
        let addresses = &self.agent.rooms.addresses.inner;
        assert!(!addresses.touched_foreign, "seed {seed}: a foreign address was touched");
        let on_link: BTreeSet<IpAddr> =
            addresses.links[0].addresses.iter().map(|known| known.net.addr()).collect();
        assert!(self.foreign.is_subset(&on_link), "seed {seed}: a foreign address is gone");
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
        for (name, before) in self.given.iter().filter(|(name, before)| !waits(*name, before)) {
            let current =
                self.report.desired.statuses.get(name).map(PublishedStatus::addresses).unwrap_or_default();
            assert!(
                self.unseen.contains(name) || current == *before,
                "seed {seed}: {name} had {before:?}, now {current:?}"
            );
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
            // A VIP without any backend is not published yet.
            let has_backends =
                desired.frontends.values().any(|rule| rule.service == *name && !rule.backends.is_empty());
            if status != wanted {
                assert!(
                    service.wants_load_balancer && !has_backends,
                    "seed {seed}: {name}: {status:?}, not {wanted:?}"
                );
            }
        }
        for problem in &self.report.problems {
            let healed = [ProblemReason::ActionFailed, ProblemReason::VipConflict];
            assert!(!healed.contains(&problem.reason), "seed {seed}: {problem}");
        }
    }
}
