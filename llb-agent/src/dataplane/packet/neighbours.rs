// SPDX-License-Identifier: Apache-2.0
//! The neighbours on the links with programs, as the kernel told them last, and what it is made to do about them. Which
//! of them are needed is known in `next_hops.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use llb_common::address::Mac;
use tokio::time::Instant;

use super::error::PacketError;
use super::link_facts::LinkFacts;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::netlink::{Connection, Neighbour};

/// So many missing neighbours the kernel is made to look for in one look, and so many missing routes are asked for.
/// Others follow in the next looks, in turn.
pub(super) const ASKED_AT_ONCE: usize = 500;
/// How often it is said that the kernel refuses to look for a neighbour.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);

/// A neighbour: the interface index of its link, and its address.
pub(super) type Hop = (u32, IpAddr);

/// Neighbours as the kernel told them last.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Those whose MAC address is known.
    macs: BTreeMap<Hop, Mac>,
    /// Those that the kernel learned by itself. The others are configured, and need no probe.
    learned: BTreeSet<Hop>,
    /// Those that did not answer the kernel.
    silent: BTreeSet<Hop>,
    /// Those that the kernel does not forget because llb said so.
    kept: BTreeSet<Hop>,
    /// The last one that was asked for in turn.
    last_asked: Option<Hop>,
    /// When it was last said that the kernel refuses to look for a neighbour.
    refused: Option<Instant>,
}

impl Neighbours {
    /// Asks for all of them again. `is_ours` says whether a link has a program.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn read(
        &mut self,
        connection: &mut Connection,
        is_ours: impl Fn(u32) -> bool,
    ) -> io::Result<()> {
        let all: Vec<Neighbour> = connection
            .neighbours()
            .await?
            .into_iter()
            .filter(|neighbour| is_ours(neighbour.ifindex))
            .collect();
        let those = |is_it: fn(&&Neighbour) -> bool| all.iter().filter(is_it).map(hop_of).collect();
        self.learned = those(|neighbour| neighbour.is_learned);
        self.silent = those(|neighbour| neighbour.is_silent);
        self.kept = those(|neighbour| neighbour.is_kept);
        let with_mac = all.iter().filter_map(|found| Some((hop_of(found), Mac::new(found.mac?.0))));
        self.macs = with_mac.collect();
        Ok(())
    }

    pub(super) fn mac(&self, hop: &Hop) -> Option<Mac> {
        self.macs.get(hop).copied()
    }

    pub(super) fn is_silent(&self, hop: &Hop) -> bool {
        self.silent.contains(hop)
    }

    /// Those of `hops` whose MAC address is not known.
    pub(super) fn missing(&self, hops: BTreeSet<Hop>) -> BTreeSet<Hop> {
        hops.into_iter().filter(|hop| !self.macs.contains_key(hop)).collect()
    }

    /// Makes the kernel look for those of `hops` that are missing, [`ASKED_AT_ONCE`] of them.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn ask_in_turn(
        &mut self,
        connection: &mut Connection,
        hops: BTreeSet<Hop>,
    ) -> io::Result<()> {
        for hop in in_turn(&self.missing(hops), &mut self.last_asked) {
            self.ask(connection, hop).await?;
        }
        Ok(())
    }

    /// Makes the kernel look for a neighbour. That it refuses this stops nothing else.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn ask(&mut self, connection: &mut Connection, hop: Hop) -> io::Result<()> {
        let Err(error) = connection.keep_neighbour(hop.0, hop.1).await else { return Ok(()) };
        if error.raw_os_error().is_none() {
            return Err(error);
        }
        let now = clock::now();
        if self.refused.is_none_or(|said| now - said > REFUSAL_PAUSE) {
            self.refused = Some(now);
            let (error, neighbour) = (ErrorChain(&error), hop.1);
            tracing::warn!(%neighbour, %error, "the kernel does not look for a neighbour; it is asked again");
        }
        Ok(())
    }

    /// Makes each neighbour of `hops` prove that it is there. Returns how many were asked.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn probe(
        &mut self,
        connection: &mut Connection,
        hops: BTreeSet<Hop>,
    ) -> io::Result<u32> {
        let mut asked = 0;
        for hop in hops {
            if self.learned.contains(&hop) {
                connection.probe_neighbour(hop.0, hop.1).await?;
            } else if !self.macs.contains_key(&hop) {
                self.ask(connection, hop).await?;
            } else {
                continue;
            }
            asked += 1;
        }
        Ok(asked)
    }

    /// Lets the kernel forget what is kept and not needed any more.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn release_all_but(
        &mut self,
        connection: &mut Connection,
        needed: &BTreeSet<Hop>,
    ) -> io::Result<()> {
        let idle: Vec<Hop> = self.kept.difference(needed).copied().take(ASKED_AT_ONCE).collect();
        for hop in idle {
            connection.release_neighbour(hop.0, hop.1).await?;
            self.kept.remove(&hop);
        }
        Ok(())
    }
}

/// Lets the kernel forget all neighbours on these links that an agent has kept.
///
/// # Errors
/// The kernel does not answer.
pub async fn release_neighbours(links: &[String]) -> Result<(), PacketError> {
    let failed = |source| PacketError::Netlink { source };
    let mut connection = Connection::open().map_err(failed)?;
    let facts = LinkFacts::read(&mut connection).await.map_err(failed)?;
    let indexes: BTreeSet<u32> =
        facts.iter().filter(|link| links.contains(&link.name)).map(|link| link.ifindex).collect();
    let all = connection.neighbours().await.map_err(failed)?;
    for kept in all.iter().filter(|found| found.is_kept && indexes.contains(&found.ifindex)) {
        connection.release_neighbour(kept.ifindex, kept.address).await.map_err(failed)?;
    }
    Ok(())
}

/// At most [`ASKED_AT_ONCE`] of `all`: those that follow on `last`, and then the first ones. The last one of these is
/// noted.
pub(super) fn in_turn<T: Copy + Ord>(all: &BTreeSet<T>, last: &mut Option<T>) -> Vec<T> {
    let is_behind = |one: &&T| last.is_none_or(|last| **one > last);
    let behind = all.iter().filter(is_behind);
    let before = all.iter().filter(|one| !is_behind(one));
    let chosen: Vec<T> = behind.chain(before).take(ASKED_AT_ONCE).copied().collect();
    *last = chosen.last().copied().or(*last);
    chosen
}

fn hop_of(neighbour: &Neighbour) -> Hop {
    (neighbour.ifindex, neighbour.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn() {
        let all: BTreeSet<usize> = (0..ASKED_AT_ONCE * 5 / 2).collect();
        let mut last = None;
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let chosen = in_turn(&all, &mut last);
            assert_eq!(chosen.len(), ASKED_AT_ONCE);
            seen.extend(chosen);
        }
        assert_eq!(seen, all);
        let few = BTreeSet::from([1, 2]);
        assert_eq!(in_turn(&few, &mut last), [1, 2], "each of them once");
        assert_eq!(in_turn(&few, &mut last), [1, 2]);
        assert_eq!(in_turn(&BTreeSet::new(), &mut last), [0; 0]);
    }
}
