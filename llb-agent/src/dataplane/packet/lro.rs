// SPDX-License-Identifier: Apache-2.0
//! Keeps LRO off on links that forward. With LRO, a card puts packets of a TCP stream together and hands them over as one,
//! which is for hosts that receive them: such a packet has lost what is needed to send it on, and some drivers damage it
//! when they send it. The kernel turns LRO off where it forwards itself, but it does not know that programs do.

use std::collections::BTreeMap;
use std::io;

use super::link_facts::LinkFacts;
use super::retry::Retry;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::model::{Problem, ProblemReason, Subject};
use crate::netlink::{Connection, has_lro, turn_lro_off};

/// The links on which LRO stays on, by their interface indexes.
#[derive(Debug, Default)]
pub(super) struct Lro {
    refusals: BTreeMap<u32, Refusal>,
}

/// The kernel may log each attempt, so a refused one is made again after a pause.
#[derive(Debug)]
struct Refusal {
    link: String,
    error: String,
    retry: Retry,
}

impl Lro {
    /// Turns LRO off where it is on: on these links, and on all those on which they are built. Returns where it stays on.
    pub(super) async fn keep_off(&mut self, links: &[LinkFacts]) -> Vec<Problem> {
        match with_those_below(links).await {
            Ok(all) => {
                self.refusals.retain(|ifindex, _| all.iter().any(|link| link.ifindex == *ifindex));
                for link in &all {
                    self.keep_off_at(link).await;
                }
            }
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "cannot read on which links others are built");
            }
        }
        self.refusals.values().map(problem).collect()
    }

    async fn keep_off_at(&mut self, link: &LinkFacts) {
        let LinkFacts { name, ifindex, .. } = link;
        match has_lro(*ifindex).await {
            Ok(true) => {}
            Ok(false) => {
                self.refusals.remove(ifindex);
                return;
            }
            // It is away; a problem of its own says so.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                self.refusals.remove(ifindex);
                return;
            }
            // This says nothing about LRO.
            Err(error) => {
                tracing::debug!(link = name, error = %ErrorChain(&error), "cannot ask whether LRO is on");
                return;
            }
        }
        let before = self.refusals.get(ifindex).map(|refusal| refusal.retry);
        if before.is_some_and(|retry| !retry.is_due(clock::now())) {
            return;
        }
        match turn_lro_off(*ifindex).await {
            Ok(()) => {
                self.refusals.remove(ifindex);
                tracing::info!(link = name, "LRO is turned off: what it puts together can't be forwarded");
            }
            Err(error) => {
                let error = ErrorChain(&error).to_string();
                let retry = Retry::after(before, clock::now());
                self.refusals.insert(*ifindex, Refusal { link: name.clone(), error, retry });
            }
        }
    }
}

/// These links and those on which they are built.
async fn with_those_below(links: &[LinkFacts]) -> io::Result<Vec<LinkFacts>> {
    if links.iter().all(|link| link.below.is_none()) {
        return Ok(links.to_vec());
    }
    let all = LinkFacts::read(&mut Connection::open()?).await?;
    Ok(down_from(links, &all))
}

/// `links` and those of `all` on which they are built, on all levels, each one once.
fn down_from(links: &[LinkFacts], all: &[LinkFacts]) -> Vec<LinkFacts> {
    let mut found: Vec<LinkFacts> = Vec::new();
    for link in links {
        let mut next = Some(link);
        while let Some(link) = next.filter(|link| !found.iter().any(|seen| seen.ifindex == link.ifindex)) {
            found.push(link.clone());
            next = all.iter().find(|other| link.below == Some(other.ifindex));
        }
    }
    found
}

fn problem(Refusal { link, error, .. }: &Refusal) -> Problem {
    Problem {
        subject: Subject::Link(link.clone()),
        reason: ProblemReason::LroStaysOn,
        message: format!(
            "{link} puts packets together that it receives (LRO), and those can't be forwarded; llb can't turn that off: \
             {error}; turn it off yourself: `ethtool -K {link} lro off`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::hooks::tests::link;
    use super::*;

    #[test]
    fn links_below_are_found_on_all_levels_and_once() {
        let built = |name, ifindex, below| LinkFacts { ifindex, below, ..link(name, None) };
        let card = built("eth0", 2, None);
        let vlan = built("eth0.100", 3, Some(2));
        let upper = built("macvlan0", 4, Some(3));
        let other = built("eth1", 5, None);
        let all = [card.clone(), vlan.clone(), upper.clone(), other];
        let names = |links: &[LinkFacts]| {
            down_from(links, &all).into_iter().map(|link| link.name).collect::<Vec<_>>()
        };
        assert_eq!(names(std::slice::from_ref(&upper)), ["macvlan0", "eth0.100", "eth0"]);
        assert_eq!(names(&[vlan, upper, card]), ["eth0.100", "eth0", "macvlan0"]);
        assert_eq!(names(&[built("lost", 6, Some(7))]), ["lost"], "the one below is not here");
        assert_eq!(names(&[built("circle", 6, Some(6))]), ["circle"]);
    }
}
