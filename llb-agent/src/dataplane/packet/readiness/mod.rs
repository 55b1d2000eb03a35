// SPDX-License-Identifier: Apache-2.0
//! Which Nodes of a frontend in mode dsr get clients. A Node whose kube-proxy does not know the VIP or the port yet
//! sends packets back, and its connection tracking goes on doing so with the ports of these clients, for minutes. So
//! a Node that is new to a frontend gets no client before it has answered a canary: a SYN to VIP and port that the
//! agent sends itself. Pure; the time is an argument. Canaries are made in `canary.rs` and sent by
//! `canary_sender.rs`.
//!
//! ```text
//!   new Node of a frontend --> waits -- a canary is answered --------------------------> gets clients
//!                                |----- UNANSWERED canaries in a row, none came back ------^
//!                                |----- no canary can be sent (UDP): after BLIND_WAIT -----^
//!                                `----- at the latest after MOST_WAIT ---------------------^
//! ```
//!
//! - A canary that comes back, or is answered by an ICMP error: the Node has no rule. It is asked again.
//! - A SYN-ACK or a reset that comes from VIP and port: the Node has a rule. Whether a Pod listens is another matter.
//! - No answer: the Node, a firewall or a network policy drops it. That harms no client's port, and the
//!   Service may admit no packets of this machine, so it is not waited for long.
//! - Time begins when the VIP is an address of this machine: before, nothing can come back. MOST_WAIT runs from the
//!   first look, also on a standby: if that takes over later, kube-proxy has long known the VIP, and no client waits.
//! - A Node that got clients goes on getting them, whatever happens meanwhile, also after a restart of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Frontend, Protocol};

/// The pause between two canaries to one Node of a frontend. An answer that takes longer counts all the same.
const PAUSE: Duration = Duration::from_millis(200);
/// A Node gets clients after so many canaries in a row of which nothing was heard: after a second, as long as a
/// client waits before it repeats a SYN.
const UNANSWERED: u32 = 5;
/// A Node gets clients after this time if it can't be asked. kube-proxy follows within two seconds.
const BLIND_WAIT: Duration = Duration::from_secs(3);
/// A Node gets clients after this time whatever is heard: perhaps it treats clients differently.
const MOST_WAIT: Duration = Duration::from_secs(30);

/// A Node of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) frontend: Frontend,
    pub(super) node: IpAddr,
}

/// What was heard of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// An answer of VIP and port.
    Answered,
    /// The canary itself, or an ICMP error about it.
    SentBack,
}

/// What follows now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advance {
    /// A canary is sent to each of these Nodes.
    pub(super) canaries: Vec<Pair>,
    /// These Nodes get clients from now on.
    pub(super) ready: Vec<Pair>,
    /// Those of them that sent canaries back to the end.
    pub(super) given_up: Vec<Pair>,
}

/// The Nodes of the frontends that wait for their Nodes.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    ready: BTreeMap<Frontend, BTreeSet<IpAddr>>,
    waiting: BTreeMap<Frontend, BTreeMap<IpAddr, Wait>>,
    counts: CanaryCounts,
}

/// A Node that gets no clients yet.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    /// Since when it waits, whether or not the VIP is here.
    since: Option<Instant>,
    /// Since when the VIP is an address of this machine.
    is_here_since: Option<Instant>,
    /// When the next canary is due.
    due: Option<Instant>,
    /// Nothing was heard of the last canary yet.
    is_open: bool,
    /// Canaries in a row of which nothing was heard.
    unanswered: u32,
    /// The last thing that was heard is that the Node has no rule.
    was_sent_back: bool,
}

/// How many canaries ended in which way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CanaryCounts([u64; 3]);

impl CanaryCounts {
    /// The names of the ways.
    const RESULTS: [&str; 3] = ["answered", "sent_back", "unanswered"];

    /// Each name with its count.
    pub(super) fn all(self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::RESULTS.into_iter().zip(self.0)
    }
}

impl Readiness {
    /// Takes in all Nodes of a frontend. `has_clients` says whether clients were sent to a Node before.
    pub(super) fn follow(
        &mut self,
        frontend: Frontend,
        nodes: &BTreeSet<IpAddr>,
        has_clients: impl Fn(IpAddr) -> bool,
    ) {
        let were_ready = self.ready.remove(&frontend).unwrap_or_default();
        let were_waiting = self.waiting.remove(&frontend).unwrap_or_default();
        let (mut ready, mut waiting) = (BTreeSet::new(), BTreeMap::new());
        for node in nodes {
            match were_waiting.get(node) {
                Some(wait) => drop(waiting.insert(*node, *wait)),
                None if were_ready.contains(node) || has_clients(*node) => drop(ready.insert(*node)),
                None => drop(waiting.insert(*node, Wait::default())),
            }
        }
        if !ready.is_empty() {
            self.ready.insert(frontend, ready);
        }
        if !waiting.is_empty() {
            self.waiting.insert(frontend, waiting);
        }
    }

    /// Forgets a frontend that is gone, or does not wait for its Nodes.
    pub(super) fn forget(&mut self, frontend: &Frontend) {
        self.ready.remove(frontend);
        self.waiting.remove(frontend);
    }

    /// Whether a Node waits for clients of a frontend.
    pub(super) fn waits(&self, frontend: &Frontend, node: IpAddr) -> bool {
        self.waiting.get(frontend).is_some_and(|nodes| nodes.contains_key(&node))
    }

    /// Whether no Node waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many Nodes wait, each counted once for each frontend.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.values().map(BTreeMap::len).sum()
    }

    /// How many canaries ended in which way.
    pub(super) fn counts(&self) -> CanaryCounts {
        self.counts
    }

    /// The VIPs that were no address of this machine when it was last asked.
    pub(super) fn absent_vips(&self) -> BTreeSet<IpAddr> {
        let absent = |nodes: &BTreeMap<IpAddr, Wait>| nodes.values().any(|wait| wait.is_here_since.is_none());
        self.waiting.iter().filter(|(_, nodes)| absent(nodes)).map(|(frontend, _)| frontend.vip).collect()
    }

    /// Notes that a VIP is an address of this machine.
    pub(super) fn vip_is_here(&mut self, vip: IpAddr, now: Instant) {
        let of_vip = self.waiting.iter_mut().filter(|(frontend, _)| frontend.vip == vip);
        for wait in of_vip.flat_map(|(_, nodes)| nodes.values_mut()) {
            wait.is_here_since.get_or_insert(now);
        }
    }

    /// Says what follows by now. `has_way`: a packet can be sent to the Node; nobody can if `can_ask` is false. At
    /// most so many canaries are sent: the Nodes that have waited longest for one come first.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        can_ask: bool,
        most: usize,
        has_way: impl Fn(&Pair) -> bool,
    ) -> Advance {
        let mut advance = Advance::default();
        let mut due: Vec<(Option<Instant>, Pair)> = Vec::new();
        for (frontend, nodes) in &mut self.waiting {
            let is_blind = !can_ask || frontend.protocol == Protocol::Udp;
            for (node, wait) in nodes {
                let pair = Pair { frontend: *frontend, node: *node };
                if wait.has_waited_enough(now, is_blind) {
                    advance.given_up.extend(wait.was_sent_back.then_some(pair));
                    advance.ready.push(pair);
                } else if !is_blind && wait.is_due(now) {
                    self.counts.0[2] += u64::from(wait.ends_unanswered());
                    if wait.unanswered >= UNANSWERED {
                        advance.ready.push(pair);
                    } else {
                        due.push((wait.due, pair));
                    }
                }
            }
        }
        due.sort();
        advance.canaries = due.into_iter().map(|(_, pair)| pair).filter(has_way).take(most).collect();
        for pair in &advance.canaries {
            if let Some(wait) = self.wait(pair) {
                (wait.due, wait.is_open) = (Some(now + PAUSE), true);
            }
        }
        advance.ready.iter().for_each(|pair| self.is_ready(pair));
        advance
    }

    /// Takes in what was heard of a canary. True if the Node gets clients from now on.
    pub(super) fn hear(&mut self, pair: &Pair, heard: Heard) -> bool {
        let Some(wait) = self.wait(pair) else { return false };
        wait.is_open = false;
        match heard {
            Heard::Answered => {
                self.counts.0[0] += 1;
                self.is_ready(pair);
                true
            }
            Heard::SentBack => {
                (wait.unanswered, wait.was_sent_back) = (0, true);
                self.counts.0[1] += 1;
                false
            }
        }
    }

    fn wait(&mut self, pair: &Pair) -> Option<&mut Wait> {
        self.waiting.get_mut(&pair.frontend)?.get_mut(&pair.node)
    }

    fn is_ready(&mut self, pair: &Pair) {
        if let Some(nodes) = self.waiting.get_mut(&pair.frontend) {
            nodes.remove(&pair.node);
            if nodes.is_empty() {
                self.waiting.remove(&pair.frontend);
            }
        }
        self.ready.entry(pair.frontend).or_default().insert(pair.node);
    }
}

impl Wait {
    fn has_waited_enough(&mut self, now: Instant, is_blind: bool) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_over = |since: Instant, most| now.saturating_duration_since(since) >= most;
        is_over(since, MOST_WAIT)
            || is_blind && self.is_here_since.is_some_and(|since| is_over(since, BLIND_WAIT))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.is_here_since.is_some() && self.due.is_none_or(|due| due <= now)
    }

    /// The last canary has got no answer, if there was one. True if there was one.
    fn ends_unanswered(&mut self) -> bool {
        if !std::mem::take(&mut self.is_open) {
            return false;
        }
        self.unanswered += 1;
        self.was_sent_back = false;
        true
    }
}

#[cfg(test)]
mod tests;
