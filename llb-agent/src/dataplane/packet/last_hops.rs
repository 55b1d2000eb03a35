// SPDX-License-Identifier: Apache-2.0
//! How each backend was reached last, and what follows while it can't be reached. Pure; the time is an
//! argument. Routes and neighbours are read in `next_hops.rs`, and what a backend's flows do is decided in
//! `image/entries.rs`.
//!
//! ```text
//!               .-------- it is there again --------.---------------------------------.
//!               v                                   |                                 |
//!   (never) -> reached --nothing is known of it--> missing --for GRACE, or silent--> lost
//!                 `---------the kernel asked it, and it is silent---------------------^
//!
//!   reached, missing: packets go to the last MAC address; lost: no MAC address
//! ```
//!
//! A missing entry says nothing about the backend: somebody flushed the table, a link lost its carrier, a
//! daemon took an address away and puts it back. A neighbour that does not answer is another matter. It gets
//! nothing at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::image::NextHop;

/// For so long the last way to a backend is used while the kernel knows none. To restart a network daemon takes
/// less; that a neighbour is silent, the kernel finds out sooner (3 s).
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// After so long a lost backend is no longer waited for: see [`NextHop::is_lasting`]. A switch or a router that
/// starts again needs some ten seconds; somebody who waits for an answer, not much more.
pub(super) const LASTING: Duration = Duration::from_secs(30);

/// What the kernel knows now about the way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The whole way, with a MAC address.
    Reached(NextHop),
    /// No route, or no MAC address.
    Missing,
    /// The kernel asked the neighbour, and got no answer.
    Silent,
}

/// The last way to each backend that was reached once.
#[derive(Debug, Default)]
pub(super) struct LastHops {
    all: BTreeMap<IpAddr, Last>,
    /// Those that are lost now.
    lost: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    hop: NextHop,
    condition: Condition,
    /// Since when it is reached, or is not.
    since: Instant,
    /// What [`LastHops::get`] returns.
    shown: NextHop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Reached,
    Missing,
    Lost,
}

impl LastHops {
    /// Begins with what the maps hold: flows rely on it, whatever the kernel knows now.
    pub(super) fn restored(hops: BTreeMap<IpAddr, NextHop>, now: Instant) -> Self {
        let lost = hops.iter().filter(|(_, hop)| hop.mac.is_none()).map(|(address, _)| *address).collect();
        let all = hops
            .into_iter()
            .map(|(address, hop)| {
                let condition = if hop.mac.is_some() { Condition::Missing } else { Condition::Lost };
                let shown = NextHop { is_lasting: false, ..hop };
                (address, Last { hop, condition, since: now, shown })
            })
            .collect();
        Self { all, lost }
    }

    /// Takes in what the kernel knows now. `true` if what [`LastHops::get`] returns has changed in a way that
    /// matters.
    pub(super) fn follow(&mut self, address: IpAddr, seen: Seen, now: Instant) -> bool {
        let old = self.all.get(&address).copied();
        let Some(new) = Last::after(old, seen, now) else { return false };
        self.all.insert(address, new);
        if new.condition == Condition::Lost {
            self.lost.insert(address);
        } else {
            self.lost.remove(&address);
        }
        // For how long a backend is reached matters to the flows of lost ones only. Without any, it is no news:
        // else each new backend would cost a second look at all frontends.
        let is_lasting = if self.lost.is_empty() {
            new.shown.is_lasting
        } else {
            old.is_some_and(|old| old.shown.is_lasting)
        };
        old.is_none_or(|old| NextHop { is_lasting, ..old.shown } != new.shown)
    }

    /// The way to a backend; without a MAC address while it is lost. `None`: it was never reached.
    pub(super) fn get(&self, address: IpAddr) -> Option<NextHop> {
        self.all.get(&address).map(|last| last.shown)
    }

    /// Whether the kernel knew no way to it at the last look.
    pub(super) fn was_away(&self, address: IpAddr) -> bool {
        self.all.get(&address).is_none_or(|last| last.condition != Condition::Reached)
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.all.retain(|address, _| addresses.contains(address));
        self.lost.retain(|address| addresses.contains(address));
    }
}

impl Last {
    fn after(old: Option<Self>, seen: Seen, now: Instant) -> Option<Self> {
        let condition = match (seen, old) {
            (Seen::Reached(_), _) => Condition::Reached,
            (_, None) => return None,
            (Seen::Silent, _) => Condition::Lost,
            (Seen::Missing, Some(old)) => match old.condition {
                Condition::Reached => Condition::Missing,
                Condition::Missing if now - old.since < GRACE => Condition::Missing,
                Condition::Missing | Condition::Lost => Condition::Lost,
            },
        };
        let is_away = condition != Condition::Reached;
        let goes_on = old.filter(|old| (old.condition != Condition::Reached) == is_away);
        let since = goes_on.map_or(now, |old| old.since);
        let hop = if let Seen::Reached(hop) = seen { hop } else { old?.hop };
        let mac = hop.mac.filter(|_| condition != Condition::Lost);
        let shown = NextHop { mac, is_lasting: now - since >= LASTING, ..hop };
        Some(Self { hop, condition, since, shown })
    }
}

#[cfg(test)]
mod tests {
    use llb_common::address::Mac;

    use super::*;
    use crate::clock;

    const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 31));

    fn hop(mac: u8) -> NextHop {
        NextHop {
            ifindex: 7,
            source_mac: Mac::new([1; 6]),
            mac: Some(Mac::new([mac; 6])),
            source: "192.0.2.20".parse().unwrap(),
            mtu: 1500,
            is_lasting: false,
            waits: false,
        }
    }

    /// Each look: seconds, what is seen, and then: whether something has changed, the MAC, and whether it lasts.
    fn check(hops: &mut LastHops, looks: &[(u64, Seen, bool, Option<u8>, bool)]) {
        let start = clock::now();
        for (at, seen, is_changed, mac, is_lasting) in looks {
            let changed = hops.follow(NODE, *seen, start + Duration::from_secs(*at));
            let shown = hops.get(NODE).map(|hop| (hop.mac.map(|mac| mac.bytes()[0]), hop.is_lasting));
            assert_eq!((changed, shown), (*is_changed, Some((*mac, *is_lasting))), "at {at} s: {seen:?}");
            assert_eq!(hops.get(NODE).unwrap().source, hop(1).source, "at {at} s");
        }
    }

    #[test]
    fn a_flushed_neighbour_is_reached_all_the_time() {
        use Seen::{Missing, Reached};
        let looks = [
            (0, Reached(hop(1)), true, Some(1), false),
            (1, Missing, false, Some(1), false),
            (2, Reached(hop(1)), false, Some(1), false),
            (3, Reached(hop(2)), true, Some(2), false),
            (32, Reached(hop(2)), false, Some(2), true),
            (33, Missing, false, Some(2), false),
            (34, Reached(hop(2)), false, Some(2), false),
            (64, Reached(hop(2)), false, Some(2), true),
        ];
        check(&mut LastHops::default(), &looks);
    }

    #[test]
    fn what_is_missing_for_a_while_is_lost_and_what_is_silent_is_lost_at_once() {
        use Seen::{Missing, Reached, Silent};
        let looks = [
            (0, Reached(hop(1)), true, Some(1), false),
            (1, Missing, false, Some(1), false),
            (5, Missing, false, Some(1), false),
            (6, Missing, true, None, false),
            (7, Missing, false, None, false),
            (8, Reached(hop(1)), true, Some(1), false),
            (9, Silent, true, None, false),
            // The kernel asks again.
            (10, Missing, false, None, false),
            (38, Silent, false, None, false),
            (39, Silent, true, None, true),
            (40, Missing, false, None, true),
            (41, Reached(hop(1)), true, Some(1), false),
        ];
        check(&mut LastHops::default(), &looks);
    }

    #[test]
    fn how_long_a_backend_is_reached_is_news_while_another_is_lost() {
        let (mut hops, start) = (LastHops::default(), clock::now());
        let other: IpAddr = "192.0.2.32".parse().unwrap();
        let mut news = |at: u64, first: Seen, second: Seen| {
            let now = start + Duration::from_secs(at);
            [hops.follow(other, second, now), hops.follow(NODE, first, now)]
        };
        let reached = Seen::Reached(hop(1));
        assert_eq!(news(0, reached, reached), [true, true]);
        assert_eq!(news(30, reached, reached), [false, false]);
        assert_eq!(news(31, Seen::Missing, Seen::Silent), [true, true], "the first is no longer lasting");
        assert_eq!(news(32, reached, Seen::Silent), [false, false]);
        assert_eq!(news(61, reached, Seen::Silent), [true, false], "the second is lost for long");
        assert_eq!(news(62, reached, Seen::Silent), [false, true], "the first is reached for long");
        assert_eq!(news(63, reached, reached), [true, false]);
    }

    #[test]
    fn an_agent_that_starts_goes_on_with_what_the_maps_hold() {
        use Seen::{Missing, Silent};
        let now = clock::now();
        let mut hops = LastHops::restored([(NODE, hop(1))].into(), now);
        assert!(hops.was_away(NODE));
        check(&mut hops, &[(0, Missing, false, Some(1), false), (4, Silent, true, None, false)]);
        let lost = NextHop { mac: None, ..hop(1) };
        let mut hops = LastHops::restored([(NODE, lost)].into(), now);
        check(&mut hops, &[(0, Missing, false, None, false)]);
        hops.retain(&BTreeSet::new());
        assert_eq!(hops.get(NODE), None);
    }

    #[test]
    fn what_was_never_reached_has_no_way() {
        let (mut hops, now) = (LastHops::default(), clock::now());
        assert!(!hops.follow(NODE, Seen::Missing, now) && !hops.follow(NODE, Seen::Silent, now));
        assert_eq!((hops.get(NODE), hops.was_away(NODE)), (None, true));
    }
}
