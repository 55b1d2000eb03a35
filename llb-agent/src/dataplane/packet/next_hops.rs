// SPDX-License-Identifier: Apache-2.0
//! How backends are reached: routes and neighbours, asked from the kernel and remembered.
//! What follows from them for a rule is decided in `dataplane/placement.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use llb_common::address::Mac;
use llb_common::settings::SNAT_ADDRESSES;
use tokio::time::Instant;

use super::image::NextHop;
use super::link_facts::LinkFacts;
use super::sources::{Asked, Sources};
use crate::clock;
use crate::dataplane::placement::{BackendWay, Ways};
use crate::netlink::{Connection, Neighbour, OwnAddress, Route, Way};

/// How long a new rule waits for its neighbours' first answer. A neighbour that is there
/// answers within a millisecond. One that is not there delays the first rule that names it by
/// this time, and no other rule within [`ASKED_LATELY`].
const FIRST_ANSWER: Duration = Duration::from_millis(200);
/// How often the kernel is asked meanwhile whether the answer has come.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// See [`FIRST_ANSWER`].
const ASKED_LATELY: Duration = Duration::from_secs(30);

/// Addresses of this machine that were read within this time count as those of now.
const ADDRESSES_LIFETIME: Duration = Duration::from_secs(1);

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

/// A neighbour: the interface index of its link, and its address.
type Hop = (u32, IpAddr);

/// Routes and neighbours as the kernel told them last.
#[derive(Debug)]
pub(super) struct NextHops {
    connection: Connection,
    /// By interface index.
    links: BTreeMap<u32, OwnLink>,
    routes: BTreeMap<IpAddr, Route>,
    sources: Sources,
    /// The addresses of this machine, and when they were read.
    here: Option<(Instant, Vec<OwnAddress>)>,
    /// Neighbours on these links whose MAC address is known.
    neighbours: BTreeMap<Hop, Mac>,
    /// When the kernel was last made to look for a neighbour that is not known.
    asked: BTreeMap<Hop, Instant>,
    /// Neighbours that the kernel learned by itself. The others are configured, and need no probe.
    learned: BTreeSet<Hop>,
}

impl NextHops {
    /// Knows nothing yet except the links, and the sources that backends see.
    pub(super) fn new(connection: Connection, links: BTreeMap<u32, OwnLink>, sources: Sources) -> Self {
        Self {
            connection,
            links,
            routes: BTreeMap::new(),
            sources,
            here: None,
            neighbours: BTreeMap::new(),
            asked: BTreeMap::new(),
            learned: BTreeSet::new(),
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
        let unknown: Vec<&IpAddr> =
            addresses.iter().filter(|address| !self.routes.contains_key(address)).collect();
        if !unknown.is_empty() {
            let new = self.read_routes(unknown).await?;
            let asked = self.ask_sources(&new).await?;
            self.routes.extend(new);
            self.follow_sources(asked);
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
            self.connection.use_neighbour(hop.0, hop.1).await?;
        }
        while !unknown.is_empty() && now.elapsed() < FIRST_ANSWER {
            tokio::time::sleep(LOOK_AGAIN).await;
            self.read_neighbours().await?;
            unknown.retain(|hop| !self.neighbours.contains_key(hop));
        }
        Ok(())
    }

    /// Asks for all routes and neighbours again. `true` if anything has changed.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn refresh(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<bool> {
        // Taken over only when all have been read: after an error, the next call still sees the change.
        let routes = self.read_routes(addresses).await?;
        let asked = self.ask_sources(&routes).await?;
        let has_new_neighbours = self.read_neighbours().await?;
        let has_new_routes = routes != self.routes;
        self.routes = routes;
        self.sources.keep(addresses);
        let has_new_sources = self.follow_sources(asked);
        let hops = self.hops(addresses);
        self.asked.retain(|hop, _| hops.contains(hop));
        Ok(has_new_neighbours || has_new_routes || has_new_sources)
    }

    /// Makes each neighbour that is needed prove that it is there. The kernel does not see the
    /// forwarded packets that would tell it. Returns how many neighbours were asked.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn probe(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<u32> {
        let mut asked = 0;
        for hop in self.hops(addresses) {
            if self.learned.contains(&hop) {
                self.connection.probe_neighbour(hop.0, hop.1).await?;
            } else if !self.neighbours.contains_key(&hop) {
                self.connection.use_neighbour(hop.0, hop.1).await?;
            } else {
                continue;
            }
            asked += 1;
        }
        Ok(asked)
    }

    /// Asks for all neighbours again. `true` if they have changed.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn read_neighbours(&mut self) -> io::Result<bool> {
        let all = self.connection.neighbours().await?;
        let is_ours = |ifindex: &u32| self.links.contains_key(ifindex);
        let all = all.into_iter().filter(|neighbour| is_ours(&neighbour.ifindex));
        let all: Vec<Neighbour> = all.collect();
        let learned = all.iter().filter(|neighbour| neighbour.is_learned);
        self.learned = learned.map(|neighbour| (neighbour.ifindex, neighbour.address)).collect();
        let known: BTreeMap<Hop, Mac> = all
            .into_iter()
            .filter_map(|neighbour| {
                Some(((neighbour.ifindex, neighbour.address), Mac::new(neighbour.mac?.0)))
            })
            .collect();
        let is_changed = known != self.neighbours;
        self.neighbours = known;
        Ok(is_changed)
    }

    /// How packets to `address` leave; `None` if they can't.
    pub(super) fn next_hop(&self, address: IpAddr) -> Option<NextHop> {
        let way = self.way(address)?;
        let link = self.links.get(&way.ifindex)?;
        let mtu = way.mtu.filter(|mtu| *mtu != 0).unwrap_or(link.mtu).min(link.mtu);
        Some(NextHop {
            ifindex: way.ifindex,
            source_mac: link.mac,
            mac: self.neighbours.get(&hop_of(address, way)).copied(),
            source: self.sources.of(address).or(way.source)?,
            mtu: mtu.min(u32::from(u16::MAX)) as u16,
        })
    }

    /// The addresses of this machine that these backends see in mode NAT.
    pub(super) fn sources(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        addresses
            .iter()
            .filter_map(|address| self.next_hop(*address))
            .filter_map(|hop| Some(hop.source).filter(|source| !source.is_unspecified()))
            .collect()
    }

    async fn read_routes(
        &mut self,
        addresses: impl IntoIterator<Item = &IpAddr>,
    ) -> io::Result<BTreeMap<IpAddr, Route>> {
        let mut routes = BTreeMap::new();
        for address in addresses {
            routes.insert(*address, self.connection.route(*address).await?);
        }
        Ok(routes)
    }

    /// The sources that the kernel would choose on these routes. Reads the addresses of this machine too, if
    /// they must be known to choose.
    async fn ask_sources(&mut self, routes: &BTreeMap<IpAddr, Route>) -> io::Result<Vec<Asked>> {
        let asked = |(address, route): (&IpAddr, &Route)| match *route {
            Route::Via(Way { ifindex, source: Some(source), .. }) if self.links.contains_key(&ifindex) => {
                Some(Asked { backend: *address, ifindex, source })
            }
            _ => None,
        };
        let asked: Vec<Asked> = routes.iter().filter_map(asked).collect();
        let must_be_known = asked.iter().any(|asked| self.sources.needs_addresses(asked));
        let are_fresh = self.here.as_ref().is_some_and(|(read, _)| read.elapsed() < ADDRESSES_LIFETIME);
        if must_be_known && !are_fresh {
            let read = clock::now();
            self.here = Some((read, self.connection.own_addresses().await?));
        }
        Ok(asked)
    }

    fn follow_sources(&mut self, asked: Vec<Asked>) -> bool {
        let here = self.here.as_ref().map_or(&[][..], |(_, here)| here);
        self.sources.follow(asked, here, clock::now())
    }

    /// How packets get to these addresses. `in_use` are the sources of what is served already.
    pub(super) fn ways(&self, addresses: &BTreeSet<IpAddr>, in_use: &BTreeSet<IpAddr>) -> Ways {
        let way = |address: &IpAddr| match self.routes.get(address) {
            Some(Route::Here) => BackendWay::ThisMachine,
            Some(Route::Via(way)) if !self.links.contains_key(&way.ifindex) => BackendWay::OtherLink,
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

    /// The neighbours that packets to `addresses` go to, on links with programs.
    fn hops(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<Hop> {
        let hops = addresses.iter().filter_map(|address| Some(hop_of(*address, self.way(*address)?)));
        hops.filter(|hop| self.links.contains_key(&hop.0)).collect()
    }

    /// Those of them whose MAC address is not known.
    fn unknown(&self, addresses: &BTreeSet<IpAddr>) -> Vec<Hop> {
        self.hops(addresses).into_iter().filter(|hop| !self.neighbours.contains_key(hop)).collect()
    }
}

/// The neighbour that a packet goes to: the router, or the backend itself.
fn hop_of(address: IpAddr, way: &Way) -> Hop {
    (way.ifindex, way.gateway.unwrap_or(address))
}
