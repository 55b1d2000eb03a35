// SPDX-License-Identifier: Apache-2.0
//! Which host has an address: probes before llb adds one, and claims of other
//! hosts after that. Pure: time comes in as an argument; the caller sends the
//! frames.
//!
//! ```text
//!   ask --> Probing --3 probes, no answer--> free --(added)--> held
//!              `------- an answer ---------> taken               |  another host claims it: in conflict,
//!                                                                |  probed for again and defended
//!                                                                `- silent for CLAIM_LIFETIME: over
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::heard::Heard;
use super::held::Held;
use super::probes::{LiveLink, Output, ProbeSeries};
use super::wanted::{ProbeResult, Wanted};
use crate::model::{AddressKey, Mac};

/// How long a refusal is remembered after llb asked last. The reconciler asks again more often.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(120);

/// What is known about the addresses that llb wants or has.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    /// By name.
    links: BTreeMap<String, LiveLink>,
    /// See [`Ownership::join_group`].
    in_group: bool,
    /// The MACs of this host. What they claim is no conflict.
    own_macs: BTreeSet<Mac>,
    wanted: BTreeMap<AddressKey, Wanted>,
    held: BTreeMap<AddressKey, Held>,
    /// Who had each address that llb could not add, and when llb asked last. While the link is down, nobody
    /// can be asked again.
    refused: BTreeMap<AddressKey, (Mac, Instant)>,
}

impl Ownership {
    /// From now on this machine is one of a group. On a link that has come up again, keepalived gives the shares anew,
    /// so the addresses there are neither probed for nor announced.
    pub(super) fn join_group(&mut self) {
        self.in_group = true;
    }

    /// Sets the links that are alive now. The addresses on a link that is new,
    /// or alive again, are probed for and then announced.
    pub(super) fn set_links(&mut self, links: BTreeMap<String, LiveLink>, now: Instant) {
        let before = std::mem::replace(&mut self.links, links.clone());
        self.own_macs.extend(links.values().map(|link| link.mac));
        for (name, link) in &links {
            let is_known = before.contains_key(name);
            if before.get(name) != Some(link) && (is_known || !self.in_group) {
                self.recheck(name, now);
            }
        }
    }

    /// Probes for all addresses that llb has on `link`, then announces them.
    pub(super) fn recheck(&mut self, link: &str, now: Instant) {
        for (_, held) in self.held.iter_mut().filter(|(key, _)| key.link == link) {
            held.recheck(now);
        }
    }

    /// Sets the addresses that llb has on links now.
    pub(super) fn hold(&mut self, keys: &BTreeSet<AddressKey>, now: Instant) {
        self.held.retain(|key, _| keys.contains(key));
        for key in keys {
            let wanted = self.wanted.remove(key);
            self.refused.remove(key);
            let held = self.held.entry(key.clone()).or_default();
            // A host that answered just before the address was added now claims it.
            if let Some(ProbeResult::Taken(mac)) = wanted.map(|wanted| wanted.result()) {
                held.claim_by(mac, now);
            }
        }
    }

    /// An address is no longer on its link. It can be put back without probes,
    /// because llb had it until now, unless another host claims it.
    pub(super) fn lost(&mut self, key: &AddressKey, now: Instant) {
        if let Some(held) = self.held.remove(key) {
            self.wanted.insert(key.clone(), Wanted::Known { at: now, owner: held.foreign_owner() });
        }
    }

    /// Whether llb may add the address; starts to probe for it if nothing is
    /// known. [`ProbeResult::Taken`] is returned once; the next call starts to
    /// probe again.
    pub(super) fn ask(&mut self, key: &AddressKey, now: Instant) -> ProbeResult {
        if self.is_free(key, now) {
            return ProbeResult::Free;
        }
        let is_down = !self.links.contains_key(&key.link);
        if let Some((mac, asked)) = self.refused.get_mut(key).filter(|_| is_down) {
            *asked = now;
            return ProbeResult::Taken(*mac);
        }
        match self.wanted.get(key).map(Wanted::result) {
            Some(ProbeResult::Pending) => return ProbeResult::Pending,
            Some(ProbeResult::Taken(mac)) => {
                self.wanted.remove(key);
                self.refused.insert(key.clone(), (mac, now));
                return ProbeResult::Taken(mac);
            }
            // A result that has expired.
            Some(ProbeResult::Free) | None => {}
        }
        self.wanted.insert(key.clone(), Wanted::Probing(ProbeSeries::new(now)));
        ProbeResult::Pending
    }

    /// Whether the last probes found no other host, or no host can be asked on
    /// that link.
    pub(super) fn is_free(&self, key: &AddressKey, now: Instant) -> bool {
        if !self.links.contains_key(&key.link) {
            return !self.refused.contains_key(key);
        }
        let wanted = self.wanted.get(key).filter(|wanted| !wanted.is_expired(now));
        wanted.is_some_and(|wanted| wanted.result() == ProbeResult::Free)
    }

    /// Takes in what was heard on the link of number `index`. Returns whether
    /// the reconciler should look.
    pub(super) fn hear(&mut self, index: u32, heard: Heard, now: Instant) -> bool {
        let Some((name, link)) = self.links.iter().find(|(_, link)| link.index == index) else {
            return false;
        };
        if self.own_macs.contains(&heard.mac) {
            return false;
        }
        let key = AddressKey { link: name.clone(), address: heard.address };
        if let Some(wanted) = self.wanted.get_mut(&key) {
            return wanted.hear(heard, link.mac, now);
        }
        let held = self.held.get_mut(&key).filter(|_| heard.claims);
        held.is_some_and(|held| held.hear_claim(heard.mac, now))
    }

    /// Whether a claim waits for [`Ownership::judge`].
    pub(super) fn has_unjudged_claims(&self) -> bool {
        self.held.values().any(Held::has_unjudged_claim)
    }

    /// Drops the claims that came from this host itself. Returns the conflicts
    /// that begin with the others.
    pub(super) fn judge(&mut self, own_macs: BTreeSet<Mac>) -> Vec<(AddressKey, Mac)> {
        self.own_macs = own_macs;
        let judged = self.held.iter_mut().map(|(key, held)| (key, held.judge(&self.own_macs)));
        judged.filter_map(|(key, mac)| Some((key.clone(), mac?))).collect()
    }

    /// The addresses on links that another host claims, with its MAC.
    pub(super) fn conflicts(&self) -> BTreeMap<AddressKey, Mac> {
        self.held.iter().filter_map(|(key, held)| Some((key.clone(), held.foreign_owner()?))).collect()
    }

    /// The addresses to defend now by one announcement each.
    pub(super) fn take_defences(&mut self, now: Instant) -> Vec<AddressKey> {
        let held = self.held.iter_mut();
        held.filter_map(|(key, held)| held.take_defence(now).then(|| key.clone())).collect()
    }

    /// The addresses to announce now.
    pub(super) fn take_announcements(&mut self) -> Vec<AddressKey> {
        let held = self.held.iter_mut();
        held.filter_map(|(key, held)| held.take_announcement().then(|| key.clone())).collect()
    }

    /// The link of an address, if it is alive.
    pub(super) fn link(&self, key: &AddressKey) -> Option<LiveLink> {
        self.links.get(&key.link).copied()
    }

    /// When [`Ownership::advance`] will next have something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let wanted = self.wanted.values().map(Wanted::due);
        wanted.chain(self.held.values().filter_map(Held::due)).min()
    }

    fn advance_wanted(&mut self, now: Instant) -> Option<Output> {
        let is_due = |wanted: &Wanted| matches!(wanted, Wanted::Probing(probes) if probes.due <= now);
        let (key, wanted) = self.wanted.iter_mut().find(|(_, wanted)| is_due(wanted))?;
        let key = key.clone();
        let Wanted::Probing(probes) = wanted else { return None };
        let link = self.links.get(&key.link);
        let probe = probes.next_probe(link, &key, now);
        if probe.is_some() {
            return probe;
        }
        if link.is_some() {
            *wanted = Wanted::Known { at: now, owner: None };
            self.refused.remove(&key);
        } else {
            // The link went down before the probes were over, so they have shown nothing.
            self.wanted.remove(&key);
        }
        Some(Output::WakeReconciler)
    }

    /// The next output; `None` when nothing more is due now.
    pub(super) fn advance(&mut self, now: Instant) -> Option<Output> {
        self.wanted.retain(|_, wanted| !wanted.is_expired(now));
        self.refused.retain(|_, (_, asked)| now < *asked + REFUSAL_LIFETIME);
        if let Some(output) = self.advance_wanted(now) {
            return Some(output);
        }
        for (key, held) in &mut self.held {
            while held.due().is_some_and(|due| due <= now) {
                if let Some(output) = held.advance(self.links.get(&key.link), key, now) {
                    return Some(output);
                }
            }
        }
        None
    }
}
