// SPDX-License-Identifier: Apache-2.0
//! From a rule and next hops to the writes that bring the maps there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use llb_common::backend::{ACTIVE, BackendEntry, BackendId};
use llb_common::frontend::{CHUNK_SLOTS, MaglevTable, SourceRangeKey};
use llb_common::time::Tick;

use super::entries::{entry_of, flags_of, lost_flows, members_of, ranges_of, slots_of};
use super::gate::Gate;
use super::known::{Known, Shares};
use super::map_image::MapImage;
use super::next_hop::NextHop;
use super::write::{Write, key_of};
use crate::model::{Backend, Frontend, Mode, PacketLimit, Rule, Weight};

impl MapImage {
    /// What to write so that `frontend` is served by `rule`.
    ///
    /// # Errors
    /// A limit is reached; nothing has changed.
    pub(in super::super) fn upsert(
        &mut self,
        frontend: Frontend,
        rule: &Arc<Rule>,
        (mode, gate): (Mode, Gate),
        next_hop: impl Fn(IpAddr) -> Option<NextHop>,
        now: Tick,
    ) -> Result<Vec<Write>, PacketLimit> {
        let is_new = !self.has(&frontend);
        let is_new_vip = !self.has_vip(frontend.vip);
        if is_new && self.frontends.len() >= self.limits.frontends as usize {
            return Err(PacketLimit::Frontends { most: self.limits.frontends });
        }
        let service = self.services.id_of(&rule.service);
        let mut known = self.frontends.remove(&frontend).unwrap_or_default();
        let result = self.follow(frontend, &mut known, rule, (mode, gate, service), next_hop, now);
        if !(is_new && result.is_err()) {
            self.frontends.insert(frontend, known);
        }
        let mut writes = result?;
        // Added ranges must be there before the frontend asks for them, and its VIP before a packet to it comes;
        // removed ranges go after it.
        let (mut added, removed) = self.range_writes(service, rule);
        added.extend(is_new_vip.then(|| Write::Vip(frontend.vip.into())));
        let at = writes.iter().position(|write| matches!(write, Write::Frontend(..))).unwrap_or(writes.len());
        writes.splice(at..at, added);
        writes.extend(removed);
        Ok(writes)
    }

    fn follow(
        &mut self,
        frontend: Frontend,
        known: &mut Known,
        rule: &Arc<Rule>,
        (mode, gate, service): (Mode, Gate, u32),
        next_hop: impl Fn(IpAddr) -> Option<NextHop>,
        now: Tick,
    ) -> Result<Vec<Write>, PacketLimit> {
        let mut writes = Vec::new();
        let backends = self.backends_for(frontend, known, rule, &next_hop, &mut writes)?;
        let shares = shares_of(rule, &backends);
        let table = match self.table_for(known, &backends, &shares, now, &mut writes) {
            Ok(table) => table,
            Err(limit) => {
                let new = backends.iter().filter(|(backend, _)| !known.backends.contains_key(backend));
                new.for_each(|(_, entry)| self.places.free(entry.id));
                return Err(limit);
            }
        };

        let mut entry = known.entry;
        if entry.id == 0 {
            entry.id = self.next_frontend;
            self.next_frontend += 1;
        }
        entry.service = service;
        entry.flags = flags_of(rule, mode, gate);
        entry.affinity_secs = rule.terms.affinity_timeout.map_or(0, |timeout| timeout.as_secs() as u32);
        if let Some(table) = table {
            self.chunks.free(entry.previous, now);
            (entry.previous, entry.table, entry.changed) = (entry.table, table, now);
        }
        let members = members_of(&entry, &backends);
        // New members must be there before packets see the frontend; others go after it.
        let (mut after, before): (Vec<Write>, Vec<Write>) = known
            .member_writes(&members)
            .into_iter()
            .partition(|write| matches!(write, Write::RemoveMember(_)));
        writes.extend(before);
        if entry != known.entry {
            writes.push(Write::Frontend(key_of(&frontend), entry));
        }
        writes.append(&mut after);
        *known = Known {
            entry,
            rule: Some(Arc::clone(rule)),
            mode,
            gate,
            backends,
            shares: Shares::Of(shares),
            members: members.into_keys().collect(),
        };
        Ok(writes)
    }

    /// The entries of the rule's backends, and of former ones that may still have flows.
    fn backends_for(
        &mut self,
        frontend: Frontend,
        known: &Known,
        rule: &Rule,
        next_hop: &impl Fn(IpAddr) -> Option<NextHop>,
        writes: &mut Vec<Write>,
    ) -> Result<BTreeMap<Backend, BackendEntry>, PacketLimit> {
        let lost_flows = lost_flows(frontend, rule, next_hop);
        let all: BTreeSet<Backend> = rule.backends.keys().chain(known.backends.keys()).copied().collect();
        let mut entries = BTreeMap::new();
        let mut new: Vec<BackendId> = Vec::new();
        for backend in all {
            let old = known.backends.get(&backend);
            let id = match old {
                Some(old) => old.id,
                None => match self.places.allocate() {
                    Ok(id) => {
                        new.push(id);
                        writes.push(Write::ResetTraffic(id));
                        id
                    }
                    Err(limit) => {
                        new.into_iter().for_each(|id| self.places.free(id));
                        return Err(limit);
                    }
                },
            };
            let is_in_rule = rule.backends.contains_key(&backend);
            let way = (next_hop(backend.address.ip()), lost_flows);
            let entry = entry_of(id, frontend, is_in_rule, backend, way);
            if old != Some(&entry) {
                writes.push(Write::Backend(entry));
            }
            entries.insert(backend, entry);
        }
        Ok(entries)
    }

    /// A new selection table; `None` if the one in use has the same shares or the same slots.
    fn table_for(
        &mut self,
        known: &Known,
        backends: &BTreeMap<Backend, BackendEntry>,
        shares: &[(BackendId, Weight)],
        now: Tick,
        writes: &mut Vec<Write>,
    ) -> Result<Option<MaglevTable>, PacketLimit> {
        if matches!(&known.shares, Shares::Of(old) if old == shares) {
            return Ok(None);
        }
        let slots = slots_of(backends, shares);
        if matches!(&known.shares, Shares::ReadBack(old) if *old == slots) {
            return Ok(None);
        }
        if slots.is_empty() {
            return Ok(Some(MaglevTable::default()));
        }
        let table = self.chunks.allocate(slots.len() as u32, now)?;
        for (number, part) in (table.first_chunk..).zip(slots.chunks(CHUNK_SLOTS)) {
            let mut chunk = Box::new([0; CHUNK_SLOTS]);
            chunk[..part.len()].copy_from_slice(part);
            writes.push(Write::Chunk(number, chunk));
        }
        Ok(Some(table))
    }

    /// The writes that add the missing source ranges of a Service, and those that remove the others.
    fn range_writes(&mut self, service: u32, rule: &Rule) -> (Vec<Write>, Vec<Write>) {
        let wanted = ranges_of(service, rule);
        let known = self.ranges.entry(service).or_default();
        let is_new = |(key, admits): &(&SourceRangeKey, &u8)| known.get(key) != Some(admits);
        let added = wanted.iter().filter(is_new).map(|(key, admits)| Write::SourceRange(*key, *admits));
        let removed = known.keys().filter(|key| !wanted.contains_key(key));
        let changes = (added.collect(), removed.map(|key| Write::RemoveSourceRange(*key)).collect());
        *known = wanted;
        changes
    }
}

/// The backends that the selection table has. If none is reached, all of them: programs give them no new flows, and drop
/// what comes, so that clients try again. Without a table it would pass to the kernel.
fn shares_of(rule: &Rule, backends: &BTreeMap<Backend, BackendEntry>) -> Vec<(BackendId, Weight)> {
    let of_rule =
        || backends.iter().filter_map(|(backend, entry)| Some((entry, *rule.backends.get(backend)?)));
    let share = |(entry, weight): (&BackendEntry, Weight)| (entry.id, weight);
    let active: Vec<_> = of_rule().filter(|(entry, _)| entry.state == ACTIVE).map(share).collect();
    if active.is_empty() { of_rule().map(share).collect() } else { active }
}
