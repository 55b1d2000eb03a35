// SPDX-License-Identifier: Apache-2.0
//! From a rule and next hops to the entries of one frontend, and what differs
//! from those that are in the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use llb_common::address::{Address, Mac, Port};
use llb_common::backend::{ACTIVE, BackendEntry, BackendId, DEAD, DRAINING};
use llb_common::frontend::{CHUNK_SLOTS, DSR, FrontendEntry, MemberKey, RESTRICTED, SourceRangeKey, Table};
use llb_common::maglev::{Contender, NOBODY, fill, slots_for};
use llb_common::time::Tick;

use super::gate::Gate;
use super::ids::{NoRoom, number_of};
use super::known::{Known, Shares};
use super::map_image::MapImage;
use super::next_hop::NextHop;
use super::write::{Write, key_of, number};
use crate::model::{Backend, Frontend, Mode, Protocol, Rule, Weight};

/// Where IPv4 addresses are among those of IPv6 (RFC 4291, 2.5.5.2).
const MAPPED: &str = "::ffff:0:0/96";

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
    ) -> Result<Vec<Write>, NoRoom> {
        let service = self.services.id_of(&rule.service);
        let mut known = self.frontends.remove(&frontend).unwrap_or_default();
        let result = self.follow(frontend, &mut known, rule, (mode, gate, service), next_hop, now);
        let is_new = known.entry.id == 0;
        if !(is_new && result.is_err()) {
            self.frontends.insert(frontend, known);
        }
        let mut writes = result?;
        // Ranges before the frontend is seen, and those that are too many after it.
        let (added, removed) = self.ranges_of(service, rule);
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
    ) -> Result<Vec<Write>, NoRoom> {
        let mut writes = Vec::new();
        let backends = self.backends_for(frontend, known, rule, next_hop, &mut writes)?;
        let shares: Vec<(BackendId, Weight)> = backends
            .iter()
            .filter(|(_, entry)| entry.state == ACTIVE)
            .filter_map(|(backend, entry)| Some((entry.id, *rule.backends.get(backend)?)))
            .collect();
        let table = match self.table_for(known, &backends, &shares, now, &mut writes) {
            Ok(table) => table,
            Err(no_room) => {
                let new = backends.iter().filter(|(backend, _)| !known.backends.contains_key(backend));
                new.for_each(|(_, entry)| self.places.free(entry.id));
                return Err(no_room);
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
        let removed: Vec<MemberKey> =
            known.members.iter().filter(|key| !members.contains_key(key)).copied().collect();
        // All of them: an id behind a key may be another one now, and they are few.
        writes.extend(members.iter().map(|(key, id)| Write::Member(*key, *id)));
        if entry != known.entry {
            writes.push(Write::Frontend(key_of(&frontend), entry));
        }
        writes.extend(removed.into_iter().map(Write::RemoveMember));
        *known = Known {
            entry,
            rule: Some(Arc::clone(rule)),
            mode,
            gate,
            backends,
            shares: Shares::Known(shares),
            members: members.into_keys().collect(),
        };
        Ok(writes)
    }

    /// Those of the rule with those that may still have flows, each with what is
    /// to be in its place.
    fn backends_for(
        &mut self,
        frontend: Frontend,
        known: &Known,
        rule: &Rule,
        next_hop: impl Fn(IpAddr) -> Option<NextHop>,
        writes: &mut Vec<Write>,
    ) -> Result<BTreeMap<Backend, BackendEntry>, NoRoom> {
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
                    Err(no_room) => {
                        new.into_iter().for_each(|id| self.places.free(id));
                        return Err(no_room);
                    }
                },
            };
            let entry = entry_of(id, frontend, rule, backend, next_hop(backend.address.ip()));
            if old != Some(&entry) {
                writes.push(Write::Backend(entry));
            }
            entries.insert(backend, entry);
        }
        Ok(entries)
    }

    /// A new table, where the one in force is for others.
    fn table_for(
        &mut self,
        known: &Known,
        backends: &BTreeMap<Backend, BackendEntry>,
        shares: &[(BackendId, Weight)],
        now: Tick,
        writes: &mut Vec<Write>,
    ) -> Result<Option<Table>, NoRoom> {
        if matches!(&known.shares, Shares::Known(old) if old == shares) {
            return Ok(None);
        }
        let slots = slots_of(backends, shares);
        if matches!(&known.shares, Shares::Slots(old) if *old == slots) {
            return Ok(None);
        }
        if slots.is_empty() {
            return Ok(Some(Table::default()));
        }
        let table = self.chunks.allocate(slots.len() as u32, now)?;
        for (number, part) in (table.first_chunk..).zip(slots.chunks(CHUNK_SLOTS)) {
            let mut chunk = Box::new([0; CHUNK_SLOTS]);
            chunk[..part.len()].copy_from_slice(part);
            writes.push(Write::Chunk(number, chunk));
        }
        Ok(Some(table))
    }

    /// Ranges of a Service to add, and to remove.
    fn ranges_of(&mut self, service: u32, rule: &Rule) -> (Vec<Write>, Vec<Write>) {
        let mut wanted = BTreeMap::new();
        for range in rule.terms.source_ranges.ranges().unwrap_or_default() {
            wanted.insert(
                SourceRangeKey::range(service, Address::from(range.network()), range.prefix_len()),
                1,
            );
            // A range of IPv6 that holds the IPv4-mapped addresses still is none of IPv4.
            let mapped: ipnet::IpNet = MAPPED.parse().expect("a range");
            if range.addr().is_ipv6() && range.contains(&mapped) {
                let address = Address::from(mapped.network());
                let key = SourceRangeKey::range(service, address, 0);
                wanted.entry(key).or_insert(0);
            }
        }
        let known = self.ranges.entry(service).or_default();
        let is_new = |(key, admits): &(&SourceRangeKey, &u8)| known.get(key) != Some(admits);
        let added = wanted.iter().filter(is_new).map(|(key, admits)| Write::SourceRange(*key, *admits));
        let removed =
            known.keys().filter(|key| !wanted.contains_key(key)).map(|key| Write::RemoveSourceRange(*key));
        let changes = (added.collect(), removed.collect());
        *known = wanted;
        changes
    }
}

fn flags_of(rule: &Rule, mode: Mode, gate: Gate) -> u32 {
    let mode = if mode == Mode::Dsr { DSR } else { 0 };
    gate.flags() | mode | if rule.terms.source_ranges.ranges().is_some() { RESTRICTED } else { 0 }
}

fn entry_of(
    id: BackendId,
    frontend: Frontend,
    rule: &Rule,
    backend: Backend,
    next_hop: Option<NextHop>,
) -> BackendEntry {
    // One that left may still end what it has begun. UDP has no end: what a client
    // sends on would be lost for ever, where another backend could answer.
    let keeps_flows = frontend.protocol == Protocol::Tcp;
    let is_reached = next_hop.is_some_and(|hop| hop.mac.is_some());
    let state = match rule.backends.contains_key(&backend) {
        _ if !is_reached => DEAD,
        true => ACTIVE,
        false if keeps_flows => DRAINING,
        false => DEAD,
    };
    let address = backend.address.ip();
    let host = match address {
        IpAddr::V4(v4) => number_of(&v4.octets()),
        IpAddr::V6(v6) => number_of(&v6.octets()),
    };
    BackendEntry {
        id,
        ifindex: next_hop.map_or(0, |hop| hop.ifindex),
        address: Address::from(address),
        vip: Address::from(frontend.vip),
        snat: next_hop.map_or_else(Address::default, |hop| Address::from(hop.source)),
        host,
        mtu: next_hop.map_or(0, |hop| hop.mtu),
        port: Port::new(backend.address.port()),
        vip_port: Port::new(frontend.port.get()),
        mac: next_hop.and_then(|hop| hop.mac).unwrap_or(Mac::new([0; 6])),
        source_mac: next_hop.map_or(Mac::new([0; 6]), |hop| hop.source_mac),
        state,
        protocol: number(frontend.protocol),
    }
}

/// The whole table: by the backends' names, so that every box that has the same
/// backends sends a flow to the same one.
fn slots_of(backends: &BTreeMap<Backend, BackendEntry>, shares: &[(BackendId, Weight)]) -> Vec<u32> {
    let weights: BTreeMap<u32, Weight> = shares.iter().map(|(id, weight)| (id.0, *weight)).collect();
    let of_share = backends.iter().filter_map(|(backend, entry)| Some((backend, weights.get(&entry.id.0)?)));
    // Slots of `fill` have 16 bits; no cluster has so many Pods behind a port.
    let mut contenders: Vec<Contender> = (0..NOBODY)
        .zip(of_share)
        .map(|(n, (backend, weight))| Contender::new(n, backend.to_string().as_bytes(), weight.get()))
        .collect();
    if contenders.is_empty() {
        return Vec::new();
    }
    let mut slots = vec![NOBODY; slots_for(contenders.len())];
    fill(&mut slots, &mut contenders);
    slots.into_iter().map(|n| shares.get(usize::from(n)).map_or(0, |(id, _)| id.0)).collect()
}

/// Needed where there is affinity.
fn members_of(
    entry: &FrontendEntry,
    backends: &BTreeMap<Backend, BackendEntry>,
) -> BTreeMap<MemberKey, BackendId> {
    if entry.affinity_secs == 0 {
        return BTreeMap::new();
    }
    let member = |backend: &BackendEntry| (MemberKey { frontend: entry.id, host: backend.host }, backend.id);
    backends.values().filter(|backend| backend.state != DEAD).map(member).collect()
}
