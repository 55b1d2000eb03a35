// SPDX-License-Identifier: Apache-2.0
//! The Events that say which plane serves each Service and why, and what the packet plane
//! goes on serving when the agent ends. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    AddressKey, Facts, Frontend, FrontendStatus, Observed, Phase, PlaneKind, ServiceName, Snapshot, State,
};
use crate::status::Event;

/// What the last Events said.
#[derive(Debug, Default)]
pub(super) struct Placements {
    known: BTreeMap<ServiceName, String>,
    /// A round with frontends is over.
    has_begun: bool,
}

impl Placements {
    /// Events for Services whose plane, or whose reason for it, has changed since the last call.
    pub(super) fn changed(&mut self, observed: &Observed, snapshot: &Snapshot) -> Vec<Event> {
        let now = summaries(observed);
        let is_told = |name: &ServiceName| {
            // For Services that had their VIP before a restart, the restart is no news.
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

/// What stays when the agent ends and its packet plane goes on: its frontends, and their addresses.
pub(super) fn served_by_packets(observed: BTreeMap<Frontend, FrontendStatus>, facts: &Facts) -> State {
    let serves = |status: &FrontendStatus| {
        status.phase == Phase::Serving && status.placement.plane == PlaneKind::Packet
    };
    let kept = observed.into_iter().filter(|(_, status)| serves(status));
    let kept: BTreeSet<Frontend> = kept.map(|(frontend, _)| frontend).collect();
    let is_used = |vip| kept.iter().any(|frontend| frontend.vip == vip);
    let addresses = facts.links.iter().flat_map(|link| {
        let ours = link.addresses.iter().filter(|known| known.ours && is_used(known.net.addr()));
        ours.map(|known| {
            let key = AddressKey { link: link.name.clone(), address: known.net.addr() };
            (key, known.net.prefix_len())
        })
    });
    State { addresses: addresses.collect(), kept, ..State::default() }
}

/// The planes of each Service with their reasons, each once.
fn summaries(observed: &Observed) -> BTreeMap<ServiceName, String> {
    let mut parts: BTreeMap<&ServiceName, BTreeSet<String>> = BTreeMap::new();
    let serving = observed.frontends.values().filter(|status| status.phase == Phase::Serving);
    for (status, rule) in serving.filter_map(|status| Some((status, status.rule.as_ref()?))) {
        let placement = &status.placement;
        let mode = placement.mode.map(|mode| format!(" in mode {mode}")).unwrap_or_default();
        let why = placement.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        parts.entry(&rule.service).or_default().insert(format!("the {} plane{mode}{why}", placement.plane));
    }
    let text = |parts: BTreeSet<String>| parts.into_iter().collect::<Vec<_>>().join(", and ");
    parts.into_iter().map(|(name, parts)| (name.clone(), text(parts))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{PlacementReason, Port, Protocol, RelayFeature, Rule, Service, Terms};

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
        let observed = |why: RelayFeature| {
            let rule = Arc::new(Rule::new(name.clone(), BTreeMap::new(), Terms::default()));
            let mut status = FrontendStatus::relayed(rule, Phase::Serving);
            status.placement.why = Some(PlacementReason::NeedsRelay(why));
            Observed { frontends: [(frontend, status)].into(), ..Observed::default() }
        };
        let mut placements = Placements::default();
        let mut told = |why| placements.changed(&observed(why), &snapshot);
        let [one, other] = [RelayFeature::MaxConnections, RelayFeature::ProxyProtocol];
        assert_eq!(told(one)[0].message, format!("Served by the userspace plane ({one})"));
        assert_eq!(told(one), []);
        assert_eq!(told(other).len(), 1);
    }
}
