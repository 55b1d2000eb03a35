// SPDX-License-Identifier: Apache-2.0
//! The Events that say which plane serves each Service and why, and what the packet plane
//! goes on serving when the agent ends. Pure; the clock is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::lasting::Lasting;
use crate::model::{
    AddressKey, Facts, Frontend, FrontendStatus, Observed, Phase, PlaneKind, PublishedStatus, ServiceName,
    Snapshot, State,
};
use crate::status::Event;

/// What the last Events said.
#[derive(Debug, Default)]
pub(super) struct Placements {
    told: BTreeMap<ServiceName, String>,
    lasting: Lasting<(ServiceName, String)>,
}

impl Placements {
    /// Events for Services whose plane, or whose reason for it, has changed since the last call and
    /// is not about to change again. `published` are the statuses from before this round.
    pub(super) fn changed(
        &mut self,
        observed: &Observed,
        published: &BTreeMap<ServiceName, PublishedStatus>,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Vec<Event> {
        let all: Vec<(ServiceName, String)> = summaries(observed).into_iter().collect();
        let mut before = std::mem::take(&mut self.told);
        for (name, text) in &all {
            // For a Service that had its VIP before this agent started, the start is no news.
            let had_vip = || published.get(name).is_some_and(|status| !status.vips.is_empty());
            match before.remove(name) {
                Some(told) => drop(self.told.insert(name.clone(), told)),
                None if had_vip() => drop(self.told.insert(name.clone(), text.clone())),
                None => drop(self.told.insert(name.clone(), String::new())),
            }
        }
        let mut events = Vec::new();
        for (name, text) in self.lasting.of(&all, now) {
            if self.told.get(name) == Some(text) {
                continue;
            }
            self.told.insert(name.clone(), text.clone());
            let uid = snapshot.services.get(name).map(|service| service.uid.clone());
            events.extend(uid.map(|uid| Event {
                service: name.clone(),
                uid,
                warning: false,
                reason: "PlaneChosen",
                message: format!("Served by {text}"),
            }));
        }
        events
    }

    /// When the next one may be told.
    pub(super) fn next(&self) -> Option<Instant> {
        self.lasting.next()
    }
}

/// What stays when the agent ends and its packet plane goes on: its frontends, and their addresses.
pub(super) fn served_by_packets(observed: BTreeMap<Frontend, FrontendStatus>, facts: &Facts) -> State {
    let serves = |status: &FrontendStatus| {
        status.phase == Phase::Serving && status.placement.plane == PlaneKind::Packet
    };
    let kept = observed.into_iter().filter(|(_, status)| serves(status));
    let kept: BTreeSet<Frontend> = kept.map(|(frontend, _)| frontend).collect();
    State { addresses: addresses_of(&kept, facts).collect(), kept, ..State::default() }
}

/// llb's addresses that these frontends use and that are on links now.
pub(super) fn addresses_of(
    kept: &BTreeSet<Frontend>,
    facts: &Facts,
) -> impl Iterator<Item = (AddressKey, u8)> {
    let is_used = move |vip| kept.iter().any(|frontend| frontend.vip == vip);
    facts.all_links().flat_map(move |link| {
        let ours = link.addresses.iter().filter(move |known| known.ours && is_used(known.net.addr()));
        ours.map(|known| {
            let key = AddressKey { link: link.name.clone(), address: known.net.addr() };
            (key, known.net.prefix_len())
        })
    })
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

    use super::super::lasting::SETTLE;
    use super::*;
    use crate::clock;
    use crate::model::{PlacementReason, Port, Protocol, PublishedVip, RelayFeature, Rule, Service, Terms};

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
        let (mut placements, start) = (Placements::default(), clock::now_std());
        let nothing = BTreeMap::new();
        let mut told = |why, seconds: u32| {
            let now = start + seconds * SETTLE;
            let events = placements.changed(&observed(why), &nothing, &snapshot, now);
            events.into_iter().map(|event| event.message).collect::<Vec<_>>()
        };
        let [one, other] = [RelayFeature::MaxConnections, RelayFeature::ProxyProtocol];
        assert!(told(one, 0).is_empty(), "it may be over in a moment");
        assert_eq!(told(one, 1), [format!("Served by the userspace plane ({one})")]);
        assert!(told(one, 2).is_empty());
        assert!(told(other, 3).is_empty());
        assert!(told(one, 3).is_empty());
        assert!(told(one, 9).is_empty(), "it was over in the same moment");
        told(other, 9);
        assert_eq!(told(other, 10).len(), 1);
    }

    #[test]
    fn a_restart_is_no_news_however_many_rounds_it_takes() {
        let name = ServiceName::new("default", "web");
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(name.clone(), Service::default().into());
        let vip = PublishedVip { ip: "192.0.2.1".parse().unwrap(), proxy: true, ports: Vec::new() };
        let published =
            [(name.clone(), PublishedStatus { vips: [vip].into(), ..PublishedStatus::default() })].into();
        let frontend = |port| Frontend {
            vip: "192.0.2.1".parse().unwrap(),
            port: Port::new(port).unwrap(),
            protocol: Protocol::Tcp,
        };
        let of = |service: &str, port| {
            let rule = Rule::new(ServiceName::new("default", service), BTreeMap::new(), Terms::default());
            (frontend(port), FrontendStatus::relayed(Arc::new(rule), Phase::Serving))
        };
        let (mut placements, start) = (Placements::default(), clock::now_std());
        let mut observed = Observed { frontends: [of("other", 80)].into(), ..Observed::default() };
        for rounds in 0..4 {
            let events = placements.changed(&observed, &published, &snapshot, start + rounds * SETTLE);
            assert!(events.is_empty(), "{events:?}");
            observed.frontends.extend([of("web", 81)]);
        }
    }
}
