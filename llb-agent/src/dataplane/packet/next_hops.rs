// SPDX-License-Identifier: Apache-2.0
//! How backends are reached: routes and neighbours, asked from the kernel and remembered.
//! What follows from them for a rule is decided in `dataplane/placement.rs`, and what holds while
//! one is missing in `last_hops.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use llb_common::address::Mac;
use llb_common::settings::SNAT_ADDRESSES;
use tokio::time::Instant;

use super::gateways::Gateways;
use super::image::NextHop;
use super::last_hops::{LastHops, Seen};
use super::link_facts::LinkFacts;
use super::neighbours::{Hop, Neighbours, in_turn};
use super::own_sources::OwnSources;
use super::sources::Asked;
use crate::clock;
use crate::dataplane::placement::{BackendWay, Ways};
use crate::netlink::{Connection, Route, Way};

/// How long a new rule waits for its neighbours' first answer. A neighbour that is there
/// answers within a millisecond. One that is not there delays the first rule that names it by
/// this time, and no other rule within [`ASKED_LATELY`].
const FIRST_ANSWER: Duration = Duration::from_millis(200);
/// How often the kernel is asked meanwhile whether the answer has come.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// See [`FIRST_ANSWER`].
const ASKED_LATELY: Duration = Duration::from_secs(30);

/// A link with a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnLink {
    pub(super) mac: Mac,
    /// Size of the largest IP packet, in bytes.
    pub(super) mtu: u32,
}

/// Links by their interface index.
pub(super) fn own_links(facts: &[LinkFacts]) -> BTreeMap<u32, OwnLink> {
    facts.iter().map(|link| (link.ifindex, OwnLink { mac: link.mac, mtu: link.mtu })).collect()
}

/// Routes and neighbours as the kernel told them last.
#[derive(Debug)]
pub(super) struct NextHops {
    connection: Connection,
    /// By interface index.
    links: BTreeMap<u32, OwnLink>,
    routes: BTreeMap<IpAddr, Route>,
    sources: OwnSources,
    neighbours: Neighbours,
    /// When the kernel was last made to look for a neighbour that is not known.
    asked: BTreeMap<Hop, Instant>,
    /// Links with an IPv6 link-local address, the only one from which the kernel looks for IPv6 neighbours
    /// without a packet for them.
    with_link_local: BTreeSet<u32>,
    /// Routers that lead to clients.
    gateways: Gateways,
    /// The way to each backend, now or before.
    last: LastHops,
    /// Whether a way has changed since [`NextHops::follow`].
    is_changed: bool,
    /// The last backend without a way whose route was asked for in turn.
    last_asked: Option<IpAddr>,
}

impl NextHops {
    /// Knows nothing yet except the links, and the ways by which the programs reach backends now.
    pub(super) fn new(
        connection: Connection,
        links: BTreeMap<u32, OwnLink>,
        hops: BTreeMap<IpAddr, NextHop>,
        gateways: Gateways,
    ) -> Self {
        let asked = |(backend, hop): (&IpAddr, &NextHop)| Asked {
            backend: *backend,
            ifindex: hop.ifindex,
            source: hop.source,
        };
        Self {
            connection,
            links,
            routes: BTreeMap::new(),
            sources: OwnSources::restored(hops.iter().map(asked)),
            neighbours: Neighbours::default(),
            asked: BTreeMap::new(),
            with_link_local: BTreeSet::new(),
            gateways,
            last: LastHops::restored(hops, clock::now()),
            is_changed: false,
            last_asked: None,
        }
    }

    /// Reads the facts of all links of this machine.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn link_facts(&mut self) -> io::Result<Vec<LinkFacts>> {
        LinkFacts::read(&mut self.connection).await
    }

    /// Replaces the links that have programs.
    pub(super) fn set_links(&mut self, links: BTreeMap<u32, OwnLink>) {
        self.links = links;
    }

    /// Finds the routes and neighbours of `addresses` that are not known yet.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn look_up(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        self.find(addresses).await?;
        self.note(addresses);
        Ok(())
    }

    async fn find(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        let unknown: Vec<&IpAddr> =
            addresses.iter().filter(|address| !self.routes.contains_key(address)).collect();
        if !unknown.is_empty() {
            let routes = self.read_routes(unknown).await?;
            self.take_over(routes);
        }
        let lacks = |address: &IpAddr| self.lacks_link_local(*address, self.way(*address));
        if addresses.iter().any(lacks) {
            self.with_link_local = self.connection.links_with_link_local().await?;
        }
        let mut unknown = self.unknown(addresses);
        if unknown.is_empty() {
            return Ok(());
        }
        self.read_neighbours().await?;
        unknown = self.unknown(addresses);
        let now = clock::now();
        unknown.retain(|hop| self.asked.get(hop).is_none_or(|asked| now - *asked > ASKED_LATELY));
        for hop in &unknown {
            self.asked.insert(*hop, now);
            self.neighbours.ask(&mut self.connection, *hop).await?;
        }
        while !unknown.is_empty() && now.elapsed() < FIRST_ANSWER {
            tokio::time::sleep(LOOK_AGAIN).await;
            self.read_neighbours().await?;
            unknown = self.neighbours.missing(unknown);
        }
        Ok(())
    }

    /// Asks for all routes and neighbours again.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn refresh(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        // Taken over only when all have been read: after an error, the next call still sees the change.
        let routes = self.read_routes(addresses).await?;
        let is_v6 = |(address, route): (&IpAddr, &Route)| match route {
            Route::Via(way) => hop_of(*address, way).1.is_ipv6(),
            Route::Here | Route::Nowhere => address.is_ipv6(),
        };
        if routes.iter().any(is_v6) {
            self.with_link_local = self.connection.links_with_link_local().await?;
        }
        self.read_neighbours().await?;
        self.routes.clear();
        self.take_over(routes);
        self.sources.keep(addresses);
        self.gateways.refresh(&mut self.connection).await;
        let needed = self.followed(addresses);
        self.asked.retain(|hop, _| needed.contains(hop));
        // A predecessor has kept gateways, too.
        if !self.gateways.are_known() {
            return Ok(());
        }
        self.neighbours.release_all_but(&mut self.connection, &needed).await
    }

    /// Looks again for what is missing of the ways to `addresses`, which are all that are served, and makes the
    /// kernel look for it too. `true` if a way has changed since the last call.
    ///
    /// # Errors
    /// The kernel does not answer. The next call still sees the change.
    pub(super) async fn follow(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<bool> {
        // Perhaps the route leads to another router by now. Of one that comes back, the last answer is old: it
        // may name a source that the kernel chose only while another address was away.
        let is_away = |address: &&IpAddr| {
            self.last.was_away(**address) || !matches!(self.seen(**address), Seen::Reached(_))
        };
        let away: BTreeSet<IpAddr> = addresses.iter().filter(is_away).copied().collect();
        let asked = in_turn(&away, &mut self.last_asked);
        let routes = self.read_routes(&asked).await?;
        self.take_over(routes);
        self.last.retain(addresses);
        self.note(addresses);
        let followed = self.followed(addresses);
        self.neighbours.ask_in_turn(&mut self.connection, followed).await?;
        Ok(std::mem::take(&mut self.is_changed))
    }

    /// Notes how these backends are reached now.
    fn note(&mut self, addresses: &BTreeSet<IpAddr>) {
        let now = clock::now();
        for address in addresses {
            let seen = self.seen(*address);
            self.is_changed |= self.last.follow(*address, seen, now);
        }
    }

    /// Makes each neighbour that is needed prove that it is there. The kernel does not see the
    /// forwarded packets that would tell it. Returns how many neighbours were asked.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn probe(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<u32> {
        let followed = self.followed(addresses);
        self.neighbours.probe(&mut self.connection, followed).await
    }

    /// Asks for all neighbours again.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn read_neighbours(&mut self) -> io::Result<()> {
        self.neighbours.read(&mut self.connection, |ifindex| self.links.contains_key(&ifindex)).await
    }

    /// How packets to `address` leave, or left until the way was lost; `None` if they never could.
    pub(super) fn next_hop(&self, address: IpAddr) -> Option<NextHop> {
        self.last.get(address)
    }

    /// Whether the kernel has a route to `address` now, by a link with a program.
    pub(super) fn has_route(&self, address: IpAddr) -> bool {
        self.found(address).is_some()
    }

    fn seen(&self, address: IpAddr) -> Seen {
        match (self.found(address), self.way(address)) {
            (Some(hop), _) if hop.mac.is_some() => Seen::Reached(hop),
            (Some(_), Some(way)) if self.neighbours.is_silent(&hop_of(address, way)) => Seen::Silent,
            _ => Seen::Missing,
        }
    }

    /// The way to `address` by what the kernel knows now.
    fn found(&self, address: IpAddr) -> Option<NextHop> {
        let way = self.way(address)?;
        let link = self.links.get(&way.ifindex)?;
        let mtu = way.mtu.filter(|mtu| *mtu != 0).unwrap_or(link.mtu).min(link.mtu);
        Some(NextHop {
            ifindex: way.ifindex,
            source_mac: link.mac,
            mac: self.neighbours.mac(&hop_of(address, way)),
            source: self.sources.of(address).or(way.source)?,
            mtu: mtu.min(u32::from(u16::MAX)) as u16,
            is_lasting: false,
            waits: false,
        })
    }

    /// The addresses of this machine that these backends see in mode NAT: those of the ways that they have, also
    /// if these are lost.
    pub(super) fn sources(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        addresses
            .iter()
            .filter_map(|address| self.next_hop(*address).or_else(|| self.found(*address)))
            .filter_map(|hop| Some(hop.source).filter(|source| !source.is_unspecified()))
            .collect()
    }

    /// Reads the routes to `addresses`, and what must be known to choose sources for them.
    async fn read_routes(
        &mut self,
        addresses: impl IntoIterator<Item = &IpAddr>,
    ) -> io::Result<BTreeMap<IpAddr, Route>> {
        let mut routes = BTreeMap::new();
        for address in addresses {
            routes.insert(*address, self.connection.route(*address).await?);
        }
        let asked: Vec<Asked> =
            routes.iter().filter_map(|(address, route)| self.asked_source(*address, route)).collect();
        self.sources.read_for(&asked, &mut self.connection).await?;
        Ok(routes)
    }

    fn take_over(&mut self, routes: BTreeMap<IpAddr, Route>) {
        let answers = routes.iter().map(|(address, route)| (*address, self.asked_source(*address, route)));
        self.sources.follow(&answers.collect::<Vec<_>>());
        self.routes.extend(routes);
    }

    /// The source that the kernel would choose on this route; `None` if packets do not leave by a link with a
    /// program.
    fn asked_source(&self, backend: IpAddr, route: &Route) -> Option<Asked> {
        match *route {
            Route::Via(Way { ifindex, source: Some(source), .. }) if self.links.contains_key(&ifindex) => {
                Some(Asked { backend, ifindex, source })
            }
            _ => None,
        }
    }

    /// How packets get to these addresses. `in_use` are the sources of what is served already.
    pub(super) fn ways(&self, addresses: &BTreeSet<IpAddr>, in_use: &BTreeSet<IpAddr>) -> Ways {
        let way = |address: &IpAddr| match self.routes.get(address) {
            Some(Route::Here) => BackendWay::ThisMachine,
            Some(Route::Via(way)) if !self.links.contains_key(&way.ifindex) => BackendWay::OtherLink,
            Some(Route::Via(way)) if self.lacks_link_local(*address, Some(way)) => BackendWay::NoLinkLocal,
            Some(Route::Via(way)) => way.gateway.map_or(BackendWay::Direct, BackendWay::Router),
            Some(Route::Nowhere) | None => BackendWay::NoRoute,
        };
        Ways {
            backends: addresses.iter().map(|address| (*address, way(address))).collect(),
            sources: self.sources(addresses).union(in_use).count(),
            most_sources: SNAT_ADDRESSES,
        }
    }

    fn way(&self, address: IpAddr) -> Option<&Way> {
        match self.routes.get(&address)? {
            Route::Via(way) => Some(way),
            Route::Here | Route::Nowhere => None,
        }
    }

    /// Whether the kernel can't look for the neighbour on the way to `address`, on a link with a program.
    fn lacks_link_local(&self, address: IpAddr, way: Option<&Way>) -> bool {
        way.map(|way| hop_of(address, way)).is_some_and(|(ifindex, hop)| {
            hop.is_ipv6() && self.links.contains_key(&ifindex) && !self.with_link_local.contains(&ifindex)
        })
    }

    /// The neighbours that packets to `addresses` go to, on links with programs.
    fn hops(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<Hop> {
        let hops = addresses.iter().filter_map(|address| Some(hop_of(*address, self.way(*address)?)));
        hops.filter(|hop| self.links.contains_key(&hop.0)).collect()
    }

    /// The neighbours of `addresses`, and the routers that lead to clients.
    fn followed(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<Hop> {
        let gateways = self.gateways.all().iter().filter(|hop| self.links.contains_key(&hop.0));
        gateways.copied().chain(self.hops(addresses)).collect()
    }

    /// The neighbours of backends whose MAC address is not known.
    fn unknown(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<Hop> {
        self.neighbours.missing(self.hops(addresses))
    }
}

/// The neighbour that a packet goes to: the router, or the backend itself.
fn hop_of(address: IpAddr, way: &Way) -> Hop {
    (way.ifindex, way.gateway.unwrap_or(address))
}
