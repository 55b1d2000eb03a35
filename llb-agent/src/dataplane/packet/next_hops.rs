// SPDX-License-Identifier: Apache-2.0
//! How backends are reached: routes and neighbours, asked from the kernel and
//! remembered. What follows from them for a rule is pure ([`NextHops::refusal`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use llb_common::address::Mac;
use llb_common::settings::SNAT_ADDRESSES;
use tokio::time::Instant;

use super::image::NextHop;
use super::link_facts::LinkFacts;
use crate::dataplane::placement::{BackendWay, Ways};
use crate::netlink::{Connection, Neighbour, Route, Way};

/// A neighbour on a segment answers within a millisecond; one that is not there
/// holds up the first rule that names it for so long, and no other within
/// [`ASKED_LATELY`].
const FIRST_ANSWER: Duration = Duration::from_millis(200);
/// How often it is looked whether the answer has come.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// See [`FIRST_ANSWER`].
const ASKED_LATELY: Duration = Duration::from_secs(30);

/// One of the links that have programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnLink {
    pub(super) mac: Mac,
    /// Bytes of the largest IP packet.
    pub(super) mtu: u32,
}

/// Links by number.
pub(super) fn own_links(facts: &[LinkFacts]) -> BTreeMap<u32, OwnLink> {
    facts.iter().map(|link| (link.ifindex, OwnLink { mac: link.mac, mtu: link.mtu })).collect()
}

/// What is known.
#[derive(Debug)]
pub(super) struct NextHops {
    connection: Connection,
    /// By number.
    links: BTreeMap<u32, OwnLink>,
    routes: BTreeMap<IpAddr, Route>,
    neighbours: BTreeMap<(u32, IpAddr), Mac>,
    asked: BTreeMap<(u32, IpAddr), Instant>,
    /// Of `neighbours`, those that can be asked whether they are still there.
    learned: BTreeSet<(u32, IpAddr)>,
}

impl NextHops {
    /// Nothing is known but the links.
    pub(super) fn new(connection: Connection, links: BTreeMap<u32, OwnLink>) -> Self {
        Self {
            connection,
            links,
            routes: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            asked: BTreeMap::new(),
            learned: BTreeSet::new(),
        }
    }

    /// The links of this machine as they are now.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub(super) async fn link_facts(&mut self) -> io::Result<Vec<LinkFacts>> {
        LinkFacts::read(&mut self.connection).await
    }

    /// The links that have programs have changed.
    pub(super) fn set_links(&mut self, links: BTreeMap<u32, OwnLink>) {
        self.links = links;
    }

    /// Finds out the way to `addresses`, as far as it is not known.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub(super) async fn look_up(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        for address in addresses {
            if !self.routes.contains_key(address) {
                let route = self.connection.route(*address).await?;
                self.routes.insert(*address, route);
            }
        }
        let mut unknown = self.unknown(addresses);
        if unknown.is_empty() {
            return Ok(());
        }
        self.read_neighbours().await?;
        unknown = self.unknown(addresses);
        let now = Instant::now();
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

    /// Asks anew for all routes; `true` if anything has changed.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub(super) async fn refresh(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<bool> {
        let before = (self.routes.clone(), self.neighbours.clone());
        self.routes.retain(|address, _| addresses.contains(address));
        for address in addresses {
            let route = self.connection.route(*address).await?;
            self.routes.insert(*address, route);
        }
        let hops = self.hops(addresses);
        self.asked.retain(|hop, _| hops.contains(hop));
        self.read_neighbours().await?;
        Ok(before != (self.routes.clone(), self.neighbours.clone()))
    }

    /// Makes every neighbour that is needed say that it is there: the kernel
    /// sees none of the packets that would tell it. Returns how many were asked.
    ///
    /// # Errors
    /// The kernel can't be asked.
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

    /// Only what the kernel says of neighbours; `true` if that has changed.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub(super) async fn read_neighbours(&mut self) -> io::Result<bool> {
        let all = self.connection.neighbours().await?;
        let is_ours = |ifindex: &u32| self.links.contains_key(ifindex);
        let all = all.into_iter().filter(|neighbour| is_ours(&neighbour.ifindex));
        let all: Vec<Neighbour> = all.collect();
        let learned = all.iter().filter(|neighbour| neighbour.is_learned);
        self.learned = learned.map(|neighbour| (neighbour.ifindex, neighbour.address)).collect();
        let known: BTreeMap<(u32, IpAddr), Mac> = all
            .into_iter()
            .filter_map(|neighbour| {
                Some(((neighbour.ifindex, neighbour.address), Mac::new(neighbour.mac?.0)))
            })
            .collect();
        let is_changed = known != self.neighbours;
        self.neighbours = known;
        Ok(is_changed)
    }

    /// How a packet to `address` leaves; `None` where it can't.
    pub(super) fn next_hop(&self, address: IpAddr) -> Option<NextHop> {
        let way = self.way(address)?;
        let link = self.links.get(&way.ifindex)?;
        let mtu = way.mtu.filter(|mtu| *mtu != 0).unwrap_or(link.mtu).min(link.mtu);
        Some(NextHop {
            ifindex: way.ifindex,
            source_mac: link.mac,
            mac: self.neighbours.get(&hop_of(address, way)).copied(),
            source: way.source?,
            mtu: mtu.min(u32::from(u16::MAX)) as u16,
        })
    }

    /// Addresses that backends see in mode NAT.
    pub(super) fn sources(&self) -> BTreeSet<IpAddr> {
        self.routes
            .keys()
            .filter_map(|address| self.next_hop(*address))
            .filter_map(|hop| Some(hop.source).filter(|source| !source.is_unspecified()))
            .collect()
    }

    /// How packets get to these addresses.
    pub(super) fn ways(&self, addresses: &BTreeSet<IpAddr>) -> Ways {
        let way = |address: &IpAddr| match self.routes.get(address) {
            Some(Route::Here) => BackendWay::ThisMachine,
            Some(Route::Via(way)) if !self.links.contains_key(&way.ifindex) => BackendWay::OtherLink,
            Some(Route::Via(way)) => way.gateway.map_or(BackendWay::Direct, BackendWay::Router),
            Some(Route::Nowhere) | None => BackendWay::NoRoute,
        };
        Ways {
            backends: addresses.iter().map(|address| (*address, way(address))).collect(),
            sources: self.sources().len(),
            most_sources: SNAT_ADDRESSES,
        }
    }

    fn way(&self, address: IpAddr) -> Option<&Way> {
        match self.routes.get(&address)? {
            Route::Via(way) => Some(way),
            Route::Here | Route::Nowhere => None,
        }
    }

    /// Neighbours on our links that are needed.
    fn hops(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<(u32, IpAddr)> {
        let hops = addresses.iter().filter_map(|address| Some(hop_of(*address, self.way(*address)?)));
        hops.filter(|hop| self.links.contains_key(&hop.0)).collect()
    }

    /// Those of them that are not known.
    fn unknown(&self, addresses: &BTreeSet<IpAddr>) -> Vec<(u32, IpAddr)> {
        self.hops(addresses).into_iter().filter(|hop| !self.neighbours.contains_key(hop)).collect()
    }
}

/// Whose MAC a packet gets.
fn hop_of(address: IpAddr, way: &Way) -> (u32, IpAddr) {
    (way.ifindex, way.gateway.unwrap_or(address))
}
