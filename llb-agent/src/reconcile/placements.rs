// SPDX-License-Identifier: Apache-2.0
//! Which plane serves each Service, told once and whenever it changes; and what
//! goes on without an agent. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    AddressKey, Facts, Frontend, FrontendStatus, Observed, Phase, PlaneKind, ServiceName, Snapshot, State,
};
use crate::status::Event;

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Placements {
    known: BTreeMap<ServiceName, String>,
    /// The first look is over.
    has_begun: bool,
}

impl Placements {
    /// Events for Services that are served by another plane, or for another
    /// reason, than when it was last looked.
    pub(super) fn changed(&mut self, observed: &Observed, snapshot: &Snapshot) -> Vec<Event> {
        let now = summaries(observed);
        let is_told = |name: &ServiceName| {
            // A restart is no news for those that had their VIP before it.
            !self.has_begun && observed.statuses.get(name).is_some_and(|status| !status.vips.is_empty())
        };
        let news = now.iter().filter(|(name, text)| self.known.get(*name) != Some(text) && !is_told(name));
        let event = |(name, text): (&ServiceName, &String)| {
            let uid = snapshot.services.get(name)?.uid.clone();
            Some(Event {
                service: name.clone(),
                uid,
                warning: false,
                reason: "PlaneChosen",
                message: format!("Served by {text}"),
            })
        };
        let events = news.filter_map(event).collect();
        self.has_begun |= !now.is_empty();
        self.known = now;
        events
    }
}

/// What goes on when the agent ends and its packet plane does not. Statuses stay as they are.
pub(super) fn served_by_packets(observed: BTreeMap<Frontend, FrontendStatus>, facts: &Facts) -> State {
    let serves = |status: &FrontendStatus| {
        status.phase == Phase::Serving && status.placement.plane == PlaneKind::Packet
    };
    let kept = observed.into_iter().filter(|(_, status)| serves(status));
    let frontends: BTreeMap<_, _> = kept.map(|(frontend, status)| (frontend, status.rule)).collect();
    let is_used = |vip| frontends.keys().any(|frontend| frontend.vip == vip);
    let addresses = facts.links.iter().flat_map(|link| {
        let ours = link.addresses.iter().filter(|known| known.ours && is_used(known.net.addr()));
        ours.map(|known| {
            let key = AddressKey { link: link.name.clone(), address: known.net.addr() };
            (key, known.net.prefix_len())
        })
    });
    State { addresses: addresses.collect(), frontends, statuses: BTreeMap::new() }
}

/// All planes of a Service with the reasons, each once.
fn summaries(observed: &Observed) -> BTreeMap<ServiceName, String> {
    let mut parts: BTreeMap<&ServiceName, BTreeSet<String>> = BTreeMap::new();
    let serving = observed.frontends.values().filter(|status| status.phase == Phase::Serving);
    for status in serving.filter(|status| !status.rule.service.name.is_empty()) {
        let placement = &status.placement;
        let mode = placement.mode.map(|mode| format!(" in mode {mode}")).unwrap_or_default();
        let why = if placement.why.is_empty() { String::new() } else { format!(" ({})", placement.why) };
        parts
            .entry(&status.rule.service)
            .or_default()
            .insert(format!("the {} plane{mode}{why}", placement.plane));
    }
    let text = |parts: BTreeSet<String>| parts.into_iter().collect::<Vec<_>>().join(", and ");
    parts.into_iter().map(|(name, parts)| (name.clone(), text(parts))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Port, Protocol, Rule, Service, Terms};

    #[test]
    fn a_plane_is_told_once_and_when_it_changes() {
        let name = ServiceName::new("default", "web");
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(name.clone(), Service::default().into());
        let frontend = Frontend {
            vip: "192.0.2.1".parse().unwrap(),
            port: Port::new(80).unwrap(),
            protocol: Protocol::Tcp,
        };
        let observed = |why: &str| {
            let rule = Arc::new(Rule::new(name.clone(), BTreeMap::new(), Terms::default()));
            let mut status = FrontendStatus::relayed(rule, Phase::Serving);
            status.placement.why = why.to_owned();
            Observed { frontends: [(frontend, status)].into(), ..Observed::default() }
        };
        let mut placements = Placements::default();
        let mut told = |why| placements.changed(&observed(why), &snapshot);
        assert_eq!(told("one")[0].message, "Served by the userspace plane (one)");
        assert_eq!(told("one"), []);
        assert_eq!(told("other").len(), 1);
    }
}
