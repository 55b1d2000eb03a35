// SPDX-License-Identifier: Apache-2.0
//! Which address of this machine each backend sees in mode NAT. Pure.
//!
//! The kernel's choice for its own packets is the first choice. Afterwards the address is kept, whatever the
//! kernel comes to prefer: backends know the open flows by it. Another one is chosen only when the address is no
//! longer on this machine, or when packets leave by another link, from where answers to it may not come back. If
//! the kernel comes back to an address that had gone, so do backends: what it chose meanwhile may be a VIP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::last_hops::GRACE;
use crate::netlink::OwnAddress;

/// An address that is gone for less than this is kept, as the way to a backend is: programs that manage addresses
/// take one away and put it back, as when its lease is renewed.
const GONE: Duration = GRACE;

/// What the kernel says about the way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) backend: IpAddr,
    /// The link by which packets leave.
    pub(super) ifindex: u32,
    /// The address that the kernel would choose for its own packets.
    pub(super) source: IpAddr,
}

/// The addresses that backends see, by the address of the backend.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<IpAddr, Chosen>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chosen {
    ifindex: u32,
    source: IpAddr,
    gone_since: Option<Instant>,
    /// The address that this one took the place of, because that was gone.
    before: Option<IpAddr>,
}

impl Sources {
    /// What an agent before this one has chosen: backend, link and source.
    pub(super) fn restored(chosen: impl IntoIterator<Item = Asked>) -> Self {
        let chosen = chosen.into_iter().map(|Asked { backend, ifindex, source }| {
            (backend, Chosen { ifindex, source, gone_since: None, before: None })
        });
        Self(chosen.collect())
    }

    /// The address that a backend sees; `None` if none was chosen.
    pub(super) fn of(&self, backend: IpAddr) -> Option<IpAddr> {
        self.0.get(&backend).map(|chosen| chosen.source)
    }

    /// Whether the addresses of this machine must be known to follow this answer.
    pub(super) fn needs_addresses(&self, asked: &Asked) -> bool {
        match self.0.get(&asked.backend) {
            Some(chosen) => chosen.source != asked.source,
            None => asked.source.is_ipv6(),
        }
    }

    /// Follows what the kernel says. `here` are the addresses of this machine; they are looked at only if an
    /// answer [needs them](Sources::needs_addresses). True if a backend sees another address from now on.
    pub(super) fn follow(
        &mut self,
        all: impl IntoIterator<Item = Asked>,
        here: &[OwnAddress],
        now: Instant,
    ) -> bool {
        let mut is_changed = false;
        for asked in all {
            let old = self.0.get(&asked.backend).copied();
            let new = match old {
                Some(old) if old.source == asked.source => {
                    Chosen { ifindex: asked.ifindex, gone_since: None, ..old }
                }
                Some(old) if old.before == Some(asked.source) => chosen(&asked, here),
                Some(old) => old.kept(&asked, here, now).unwrap_or_else(|| {
                    let before = old.before.unwrap_or(old.source);
                    Chosen { before: Some(before), ..chosen(&asked, here) }
                }),
                None => chosen(&asked, here),
            };
            is_changed |= old.is_some_and(|old| old.source != new.source);
            self.0.insert(asked.backend, new);
        }
        is_changed
    }

    /// Notes that there is no way to these backends. An address that is gone when there is one again has been gone
    /// for as long.
    pub(super) fn lost(&mut self, backends: impl IntoIterator<Item = IpAddr>, now: Instant) {
        for backend in backends {
            if let Some(chosen) = self.0.get_mut(&backend) {
                chosen.gone_since.get_or_insert(now);
            }
        }
    }

    /// Forgets all backends but these.
    pub(super) fn keep(&mut self, backends: &BTreeSet<IpAddr>) {
        self.0.retain(|backend, _| backends.contains(backend));
    }
}

impl Chosen {
    /// The same choice, as long as answers to it get here.
    fn kept(self, asked: &Asked, here: &[OwnAddress], now: Instant) -> Option<Self> {
        let places: Vec<u32> =
            here.iter().filter(|own| own.net.addr() == self.source).map(|own| own.ifindex).collect();
        let is_same_link = asked.ifindex == self.ifindex;
        if places.contains(&asked.ifindex) || (is_same_link && !places.is_empty()) {
            return Some(Self { ifindex: asked.ifindex, gone_since: None, ..self });
        }
        let gone_since = self.gone_since.unwrap_or(now);
        let is_gone_for_a_moment = is_same_link && now.saturating_duration_since(gone_since) < GONE;
        is_gone_for_a_moment.then_some(Self { gone_since: Some(gone_since), ..self })
    }
}

/// The kernel's choice; but if that does not last, an address beside it that does.
fn chosen(asked: &Asked, here: &[OwnAddress]) -> Chosen {
    let is_it = |own: &&OwnAddress| own.ifindex == asked.ifindex && own.net.addr() == asked.source;
    let choice = here.iter().find(is_it);
    let beside = choice.filter(|choice| !choice.is_lasting).and_then(|choice| {
        let is_beside =
            |own: &&OwnAddress| own.ifindex == choice.ifindex && own.net.trunc() == choice.net.trunc();
        here.iter().filter(is_beside).find(|own| own.is_lasting)
    });
    let source = beside.map_or(asked.source, |own| own.net.addr());
    Chosen { ifindex: asked.ifindex, source, gone_since: None, before: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const BACKEND: &str = "2001:db8::31";

    fn asked(ifindex: u32, source: &str) -> Asked {
        Asked { backend: BACKEND.parse().unwrap(), ifindex, source: source.parse().unwrap() }
    }

    fn own(ifindex: u32, net: &str, is_lasting: bool) -> OwnAddress {
        OwnAddress { ifindex, net: net.parse().unwrap(), is_lasting }
    }

    fn source(sources: &Sources) -> String {
        sources.of(BACKEND.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_source_stays_while_the_machine_has_it() {
        let now = clock::now();
        let mut here = vec![own(2, "2001:db8::1/64", true), own(2, "2001:db8::2/64", true)];
        let mut sources = Sources::default();
        assert!(!sources.follow([asked(2, "2001:db8::1")], &here, now), "it is the first one");
        assert!(!sources.needs_addresses(&asked(2, "2001:db8::1")));
        assert!(sources.needs_addresses(&asked(2, "2001:db8::2")));
        assert!(!sources.follow([asked(2, "2001:db8::2")], &here, now), "the kernel prefers another one");
        assert_eq!(source(&sources), "2001:db8::1");

        here.remove(0);
        assert!(!sources.follow([asked(2, "2001:db8::2")], &here, now), "away for a moment");
        assert!(!sources.follow([asked(2, "2001:db8::2")], &here, now + GONE / 2));
        here.push(own(2, "2001:db8::1/64", true));
        assert!(!sources.follow([asked(2, "2001:db8::2")], &here, now + GONE), "it is back");
        here.pop();
        let away = now + 2 * GONE;
        assert!(!sources.follow([asked(2, "2001:db8::2")], &here, away));
        assert!(sources.follow([asked(2, "2001:db8::2")], &here, away + GONE), "it is gone");
        assert_eq!(source(&sources), "2001:db8::2");
        here.push(own(2, "2001:db8::1/64", true));
        assert!(!sources.follow([asked(2, "2001:db8::2")], &here, away + 2 * GONE), "the kernel stays");
        assert!(sources.follow([asked(2, "2001:db8::1")], &here, away + 2 * GONE), "the kernel comes back");
        assert_eq!(source(&sources), "2001:db8::1");
    }

    #[test]
    fn the_time_without_a_route_counts_for_an_address_that_goes_with_it() {
        let (backend, now): (IpAddr, _) = (BACKEND.parse().unwrap(), clock::now());
        let here = [own(2, "2001:db8::2/64", true)];
        let mut sources = Sources::restored([asked(2, "2001:db8::1")]);
        sources.lost([backend], now);
        sources.lost([backend], now + GONE / 2);
        assert_eq!(source(&sources), "2001:db8::1");
        assert!(!sources.follow([asked(2, "2001:db8::2")], &here, now + GONE / 2));
        assert!(sources.follow([asked(2, "2001:db8::2")], &here, now + GONE));

        let here = [own(2, "2001:db8::1/64", true)];
        let mut sources = Sources::restored([asked(2, "2001:db8::1")]);
        sources.lost([backend], now);
        assert!(
            !sources.follow([asked(2, "2001:db8::2")], &here, now + 2 * GONE),
            "it is back with the route"
        );
        assert!(!sources.follow([asked(2, "2001:db8::2")], &[], now + 2 * GONE), "it is gone only now");
    }

    #[test]
    fn another_link_brings_its_own_source_unless_it_has_the_old_one() {
        let now = clock::now();
        let here = [own(2, "2001:db8::1/64", true), own(3, "2001:db8:3::1/64", true)];
        let mut sources = Sources::restored([asked(2, "2001:db8::1")]);
        assert_eq!(source(&sources), "2001:db8::1", "what the agent before has chosen");
        assert!(sources.follow([asked(3, "2001:db8:3::1")], &here, now));
        assert_eq!(source(&sources), "2001:db8:3::1");

        let made_anew = [own(9, "2001:db8:3::2/64", true), own(9, "2001:db8:3::1/64", true)];
        assert!(!sources.follow([asked(9, "2001:db8:3::2")], &made_anew, now));
        assert_eq!(source(&sources), "2001:db8:3::1");
        sources.keep(&BTreeSet::new());
        assert_eq!(sources.of(BACKEND.parse().unwrap()), None);
    }

    #[test]
    fn a_temporary_address_is_chosen_only_if_there_is_no_other() {
        let now = clock::now();
        let temporary = own(2, "2001:db8::77/64", false);
        let others = [own(3, "2001:db8::1/64", true), own(2, "2001:db8:1::1/64", true), temporary];
        let mut sources = Sources::default();
        sources.follow([asked(2, "2001:db8::77")], &others, now);
        assert_eq!(source(&sources), "2001:db8::77", "one of another link or prefix is none");
        let mut sources = Sources::default();
        sources.follow([asked(2, "2001:db8::77")], &[temporary, own(2, "2001:db8::2/64", true)], now);
        assert_eq!(source(&sources), "2001:db8::2");
    }
}
