// SPDX-License-Identifier: Apache-2.0
//! Whose address is it: probes before a VIP is claimed, claims of others after
//! that. Pure: time comes in as an argument, frames go out to whoever asks.
//!
//! ```text
//!   ask --> Probing --3 probes, no answer--> free --(added)--> held
//!              `------- an answer ---------> taken               |  a foreign claim: in conflict,
//!                                                                |  probed again and defended
//!                                                                `- none for CLAIM_LIFETIME: over
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::super::frame;
use super::heard::Heard;
use crate::model::{AddressKey, Mac};

/// Probes before an address counts as free, and the pause after each. RFC 5227
/// section 1.1 has three in 3 to 7 s, made for slow wireless bridges; RFC 4862
/// one and 1 s. A Service that starts must not wait so long, and on a wired
/// segment an answer takes less than a millisecond. One that comes later
/// than this is a foreign claim, which is noticed all the same.
const PROBES: usize = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(70);

/// For so long nobody is asked again about an address that was found free, or
/// that llb itself had until now.
const FREE_LIFETIME: Duration = Duration::from_secs(5);

/// RFC 5227 section 1.1 and 2.4 (c): an address that must not be given up is
/// defended by one announcement in this time at most.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// In a conflict the other one is probed for in this rhythm ...
const REPROBE_INTERVAL: Duration = Duration::from_secs(5);
/// ... and has given up when it is silent for so long: two rounds of probes.
const CLAIM_LIFETIME: Duration = Duration::from_secs(12);

/// What is known of the addresses that llb wants or has.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Links that have neighbours and a carrier, by name.
    ports: BTreeMap<String, Port>,
    /// Of this host: what they claim is no conflict.
    own_macs: BTreeSet<Mac>,
    wanted: BTreeMap<AddressKey, Wanted>,
    held: BTreeMap<AddressKey, Held>,
}

/// Where frames leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// The link's number.
    pub(super) index: u32,
    /// Its MAC.
    pub(super) mac: Mac,
}

/// What a probe for an address has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::addresses) enum Verdict {
    /// Nothing yet.
    Pending,
    /// Nobody has it.
    Free,
    /// Somebody has.
    Taken(Mac),
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A frame is due on the link of this number.
    Send(u32, Vec<u8>),
    /// The reconciler should look.
    Changed,
}

/// A series of probes.
#[derive(Clone, Copy, Debug)]
struct Run {
    sent: usize,
    due: Instant,
}

#[derive(Debug)]
enum Wanted {
    Probing(Run),
    Ended { at: Instant, owner: Option<Mac> },
}

#[derive(Debug, Default)]
struct Held {
    run: Option<Run>,
    /// To be announced as soon as it is known that nobody else has it.
    unannounced: bool,
    claim: Option<Claim>,
    defended: Option<Instant>,
}

#[derive(Debug)]
struct Claim {
    mac: Mac,
    last: Instant,
    reprobe: Instant,
    /// It is not this host itself, by another of its links.
    foreign: bool,
}

impl Ledger {
    /// The links as they are now. What is held on one that is new, or came
    /// back, is probed for again and then announced.
    pub(super) fn set_ports(&mut self, ports: BTreeMap<String, Port>, now: Instant) {
        let before = std::mem::replace(&mut self.ports, ports.clone());
        self.own_macs.extend(ports.values().map(|port| port.mac));
        for (link, port) in &ports {
            if before.get(link) != Some(port) {
                self.recheck(link, now);
            }
        }
    }

    /// Probes for everything held on `link`, then announces it.
    pub(super) fn recheck(&mut self, link: &str, now: Instant) {
        for (_, held) in self.held.iter_mut().filter(|(key, _)| key.link == link) {
            held.run = Some(Run { sent: 0, due: now });
            held.unannounced = true;
        }
    }

    /// Exactly these are llb's, and on their links.
    pub(super) fn hold(&mut self, keys: &BTreeSet<AddressKey>, now: Instant) {
        self.held.retain(|key, _| keys.contains(key));
        for key in keys {
            // Who spoke up just before it was added has a claim now.
            let owner = match self.wanted.remove(key) {
                Some(Wanted::Ended { owner, .. }) => owner,
                _ => None,
            };
            let held = self.held.entry(key.clone()).or_default();
            if let Some(mac) = owner {
                held.claim = Some(Claim::new(mac, now));
            }
        }
    }

    /// An address that was held is no longer on its link. Until now llb had it,
    /// so nobody needs to be asked before it is put back, unless there was
    /// trouble about it.
    pub(super) fn lost(&mut self, key: &AddressKey, now: Instant) {
        if let Some(held) = self.held.remove(key) {
            let owner = held.claim.filter(|claim| claim.foreign).map(|claim| claim.mac);
            self.wanted.insert(key.clone(), Wanted::Ended { at: now, owner });
        }
    }

    /// Whether the address may be claimed; starts to probe for it if nothing is
    /// known. "Taken" is said once, then it is probed for again.
    pub(super) fn ask(&mut self, key: &AddressKey, now: Instant) -> Verdict {
        if self.is_free(key, now) {
            return Verdict::Free;
        }
        match self.wanted.get(key) {
            Some(Wanted::Probing(_)) => return Verdict::Pending,
            Some(&Wanted::Ended { owner: Some(mac), .. }) => {
                self.wanted.remove(key);
                return Verdict::Taken(mac);
            }
            _ => {}
        }
        self.wanted.insert(key.clone(), Wanted::Probing(Run { sent: 0, due: now }));
        Verdict::Pending
    }

    /// Nobody answered for it lately, or there is nobody to ask.
    pub(super) fn is_free(&self, key: &AddressKey, now: Instant) -> bool {
        match self.wanted.get(key) {
            _ if !self.ports.contains_key(&key.link) => true,
            Some(&Wanted::Ended { at, owner: None }) => now < at + FREE_LIFETIME,
            _ => false,
        }
    }

    /// Takes in what was heard on the link of this number; true when the
    /// reconciler should look.
    pub(super) fn hear(&mut self, index: u32, heard: Heard, now: Instant) -> bool {
        let Some((link, port)) = self.ports.iter().find(|(_, port)| port.index == index) else {
            return false;
        };
        let key = AddressKey { link: link.clone(), address: heard.address };
        if self.own_macs.contains(&heard.mac) {
            return false;
        }
        if let Some(wanted) = self.wanted.get_mut(&key) {
            let yields = match wanted {
                // Of two that probe at the same time, exactly one gives way.
                Wanted::Probing(_) => heard.claims || heard.mac < port.mac,
                Wanted::Ended { owner, .. } => heard.claims && owner.is_none(),
            };
            if yields {
                *wanted = Wanted::Ended { at: now, owner: Some(heard.mac) };
            }
            return yields;
        }
        let Some(held) = self.held.get_mut(&key).filter(|_| heard.claims) else { return false };
        match &mut held.claim {
            // The first one stays, so that a flood of names is no flood of news.
            Some(claim) => {
                claim.last = now;
                claim.foreign && held.may_defend(now)
            }
            none => {
                *none = Some(Claim::new(heard.mac, now));
                true
            }
        }
    }

    /// Whether a claim waits for [`Ledger::judge`].
    pub(super) fn has_suspects(&self) -> bool {
        self.claims().any(|(_, claim)| !claim.foreign)
    }

    /// Drops claims of this host itself; the conflicts that began.
    pub(super) fn judge(&mut self, own_macs: BTreeSet<Mac>) -> Vec<(AddressKey, Mac)> {
        self.own_macs = own_macs;
        let mut began = Vec::new();
        for (key, held) in &mut self.held {
            held.claim.take_if(|claim| self.own_macs.contains(&claim.mac));
            if let Some(claim) = held.claim.as_mut().filter(|claim| !claim.foreign) {
                claim.foreign = true;
                began.push((key.clone(), claim.mac));
            }
        }
        began
    }

    /// Held addresses that another host claims, with its MAC.
    pub(super) fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        let foreign = self.claims().filter(|(_, claim)| claim.foreign);
        foreign.map(|(key, claim)| (key.clone(), claim.mac)).collect()
    }

    /// Those that are to be defended by one announcement each, now.
    pub(super) fn take_defences(&mut self, now: Instant) -> Vec<AddressKey> {
        let attacked = self.held.iter_mut().filter(|(_, held)| {
            let heard = held.claim.as_ref().filter(|claim| claim.foreign).map(|claim| claim.last);
            heard.is_some_and(|last| held.defended.is_none_or(|at| last > at)) && held.may_defend(now)
        });
        let keys = attacked.map(|(key, held)| {
            held.defended = Some(now);
            key.clone()
        });
        keys.collect()
    }

    /// Those that are to be announced, now.
    pub(super) fn take_announcements(&mut self) -> Vec<AddressKey> {
        let ready = self.held.iter_mut().filter(|(_, held)| held.is_announceable());
        let keys = ready.map(|(key, held)| {
            held.unannounced = false;
            key.clone()
        });
        keys.collect()
    }

    /// The link of a held or wanted address.
    pub(super) fn port(&self, key: &AddressKey) -> Option<Port> {
        self.ports.get(&key.link).copied()
    }

    /// When [`Ledger::step`] will next have something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let wanted = self.wanted.values().map(|wanted| match wanted {
            Wanted::Probing(run) => run.due,
            Wanted::Ended { at, .. } => *at + FREE_LIFETIME,
        });
        wanted.chain(self.held.values().filter_map(Held::due)).min()
    }

    /// The next thing to do; `None` when nothing is left to be done now.
    pub(super) fn step(&mut self, now: Instant) -> Option<Step> {
        self.wanted.retain(|_, wanted| match wanted {
            Wanted::Probing(_) => true,
            Wanted::Ended { at, .. } => now < *at + FREE_LIFETIME,
        });
        for (key, wanted) in &mut self.wanted {
            if let Wanted::Probing(run) = wanted
                && run.due <= now
            {
                let step = run.step(self.ports.get(&key.link), key, now);
                if step.is_none() {
                    *wanted = Wanted::Ended { at: now, owner: None };
                }
                return Some(step.unwrap_or(Step::Changed));
            }
        }
        for (key, held) in &mut self.held {
            while held.due().is_some_and(|due| due <= now) {
                if let Some(step) = held.step(self.ports.get(&key.link), key, now) {
                    return Some(step);
                }
            }
        }
        None
    }

    fn claims(&self) -> impl Iterator<Item = (&AddressKey, &Claim)> {
        self.held.iter().filter_map(|(key, held)| Some((key, held.claim.as_ref()?)))
    }
}

// === impl Run ===

impl Run {
    /// The next probe; `None` when all were sent and had their time.
    fn step(&mut self, port: Option<&Port>, key: &AddressKey, now: Instant) -> Option<Step> {
        let port = port.filter(|_| self.sent < PROBES)?;
        self.sent += 1;
        self.due = now + PROBE_INTERVAL;
        Some(Step::Send(port.index, frame::probe(port.mac, key.address)))
    }
}

// === impl Held ===

impl Held {
    fn due(&self) -> Option<Instant> {
        let claim = self.claim.as_ref();
        let over = claim.map(|claim| claim.last + CLAIM_LIFETIME);
        let probe = self.run.map(|run| run.due).or_else(|| claim.map(|claim| claim.reprobe));
        over.into_iter().chain(probe).min()
    }

    /// What is due.
    fn step(&mut self, port: Option<&Port>, key: &AddressKey, now: Instant) -> Option<Step> {
        if self.claim.take_if(|claim| claim.last + CLAIM_LIFETIME <= now).is_some() {
            self.unannounced = true;
            return Some(Step::Changed);
        }
        if let Some(run) = &mut self.run {
            if run.due > now {
                return None;
            }
            let step = run.step(port, key, now);
            if step.is_none() {
                self.run = None;
            }
            return step.or_else(|| self.is_announceable().then_some(Step::Changed));
        }
        if let Some(claim) = &mut self.claim
            && claim.reprobe <= now
        {
            claim.reprobe = now + REPROBE_INTERVAL;
            self.run = Some(Run { sent: 0, due: now });
        }
        None
    }

    fn is_announceable(&self) -> bool {
        self.unannounced && self.run.is_none() && self.claim.is_none()
    }

    fn may_defend(&self, now: Instant) -> bool {
        self.defended.is_none_or(|at| now >= at + DEFEND_INTERVAL)
    }
}

impl Claim {
    fn new(mac: Mac, now: Instant) -> Self {
        Self { mac, last: now, reprobe: now + REPROBE_INTERVAL, foreign: false }
    }
}
