// SPDX-License-Identifier: Apache-2.0
//! Removes flows that are over, and counts the others. `llb_common::conntrack` decides when a
//! flow is over; this file walks the maps, many entries at a time.

use std::collections::{BTreeMap, HashMap};
use std::io;

use llb_common::backend::{BackendEntry, BackendId};
use llb_common::conntrack::{
    CLOSED_SECS, ESTABLISHED_SECS, ForwardEntry, ForwardKey, ReplyEntry, ReplyKey, closes, is_expired,
    lifetime_secs,
};
use llb_common::frontend::TCP;
use llb_common::time::Tick;

use super::maps::Maps;
use super::table::Entries;

/// How many flows each backend has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FlowCounts {
    /// All flows that are remembered.
    pub(super) all: BTreeMap<BackendId, u32>,
    /// Flows that have not ended. A drain waits for these.
    pub(super) open: BTreeMap<BackendId, u32>,
    /// How many entries `FLOWS` and `PENDING_FLOWS` have.
    pub(super) fill: (u32, u32),
}

/// Walks once over all flows.
///
/// # Errors
/// A map can't be read or written.
pub(super) fn sweep(maps: &Maps, now: Tick) -> io::Result<FlowCounts> {
    let mut counts = FlowCounts::default();
    let backends = Backends::read(maps)?;
    let fate_of = |key: &ForwardKey, entry: &ForwardEntry| {
        judge(maps, (key, entry), backends.get(entry.backend).as_ref(), now)
    };
    let flows: [&dyn Entries<_, _>; 2] = [&maps.flows, &maps.pending_flows];
    for (flows, is_pending) in flows.into_iter().zip([false, true]) {
        let mut kept = 0;
        let mut note_kept = |entry: &ForwardEntry, is_open| {
            kept += 1;
            *counts.all.entry(entry.backend).or_default() += 1;
            if is_open {
                *counts.open.entry(entry.backend).or_default() += 1;
            }
        };
        sweep_flows(flows, &fate_of, &mut note_kept, &mut |reply| {
            maps.replies.remove_one(reply)?;
            maps.pending_replies.remove_one(reply)
        })?;
        *(if is_pending { &mut counts.fill.1 } else { &mut counts.fill.0 }) = kept;
    }
    let replies: [&dyn Entries<_, _>; 2] = [&maps.replies, &maps.pending_replies];
    for replies in replies {
        let is_over = |entry: &ReplyEntry| is_orphan(entry, backends.get(entry.backend).is_some(), now);
        let mut orphans = Vec::new();
        replies.each(&mut |key, entry: ReplyEntry| {
            if is_over(&entry) {
                orphans.push(key);
            }
        })?;
        replies.remove_if(&orphans, &mut |_, entry| Ok(is_over(entry)))?;
    }
    Ok(counts)
}

/// The backends as they were when the walk began, and those that were added since.
struct Backends<'a> {
    known: HashMap<BackendId, BackendEntry>,
    maps: &'a Maps,
}

impl<'a> Backends<'a> {
    fn read(maps: &'a Maps) -> io::Result<Self> {
        let mut known = HashMap::new();
        maps.backends.for_each(|_, entry| {
            if entry.state != 0 {
                known.insert(entry.id, entry);
            }
        })?;
        Ok(Self { known, maps })
    }

    /// A flow that has just begun may belong to a backend that is as new.
    fn get(&self, id: BackendId) -> Option<BackendEntry> {
        let is_it = |entry: &BackendEntry| entry.id == id && entry.state != 0;
        let now = || self.maps.backends.get(&id.index()).ok().flatten().filter(is_it);
        self.known.get(&id).copied().or_else(now)
    }
}

/// What becomes of a flow.
enum Fate {
    Stays { is_open: bool },
    Gone(Option<ReplyKey>),
}

/// Decides what becomes of a flow. It is as young as the younger of its two entries.
fn judge(
    maps: &Maps,
    (key, entry): (&ForwardKey, &ForwardEntry),
    backend: Option<&BackendEntry>,
    now: Tick,
) -> Fate {
    let Some(backend) = backend else { return Fate::Gone(None) };
    let is_nat = entry.snat_port.number() != 0;
    let reply_key = is_nat.then(|| reply_key(backend, entry));
    let is_its = |reply: &ReplyEntry| {
        reply.backend == entry.backend && reply.client == key.client && reply.client_port == key.client_port
    };
    let reply = || reply_key.and_then(|key| reply_of(maps, &key)).filter(is_its);
    // Without a reply entry no answer would get back. That happens when a table is made smaller
    // and the entry does not fit. The flow's next packet begins it again, mostly with the same
    // choices. It is looked up twice, as a change next to it hides an entry for a moment.
    if is_nat && reply().or_else(reply).is_none() {
        return Fate::Gone(None);
    }
    // No lifetime is shorter, and nearly all flows are younger than this.
    if !is_expired(entry.used, now, CLOSED_SECS) {
        let is_ending = backend.protocol == TCP && closes(entry.seen);
        return Fate::Stays { is_open: !is_ending };
    }
    let reply = reply();
    let used = reply.map_or(entry.used, |reply| reply.used.max(entry.used));
    let lifetime = lifetime_secs(backend.protocol, entry.seen, reply.map_or(0, |reply| reply.seen));
    if is_expired(used, now, lifetime) {
        return Fate::Gone(reply_key.filter(|_| reply.is_some()));
    }
    Fate::Stays { is_open: lifetime != CLOSED_SECS }
}

/// Whether a reply entry has no flow any more: its backend is gone, or it was not used for
/// longer than any flow lives, so that the flow's other entry is gone too.
fn is_orphan(entry: &ReplyEntry, has_backend: bool, now: Tick) -> bool {
    !has_backend || is_expired(entry.used, now, ESTABLISHED_SECS)
}

fn reply_of(maps: &Maps, key: &ReplyKey) -> Option<ReplyEntry> {
    let placed = maps.replies.words().get(key);
    placed.or_else(|| maps.pending_replies.get(key).ok().flatten())
}

fn reply_key(backend: &BackendEntry, entry: &ForwardEntry) -> ReplyKey {
    ReplyKey {
        backend: backend.address,
        backend_port: backend.port,
        snat_port: entry.snat_port,
        protocol: backend.protocol,
        padding: [0; 3],
    }
}

/// Removes the flows that are over, each with its reply entry, and calls `note_kept` with the others.
///
/// A client may use its port again while the walk goes on, mostly just when the old connection is over: then the
/// new one has the keys of the old one. So each flow is judged once more when it is removed. Its reply entry goes
/// first: a packet that finds a flow without one begins it again.
fn sweep_flows(
    flows: &dyn Entries<ForwardKey, ForwardEntry>,
    fate_of: &dyn Fn(&ForwardKey, &ForwardEntry) -> Fate,
    note_kept: &mut dyn FnMut(&ForwardEntry, bool),
    remove_reply: &mut dyn FnMut(&ReplyKey) -> io::Result<()>,
) -> io::Result<()> {
    let mut gone = Vec::new();
    flows.each(&mut |key, entry| match fate_of(&key, &entry) {
        Fate::Gone(_) => gone.push(key),
        Fate::Stays { is_open } => note_kept(&entry, is_open),
    })?;
    flows.remove_if(&gone, &mut |key, entry| match fate_of(key, entry) {
        Fate::Gone(reply) => reply.iter().try_for_each(&mut *remove_reply).map(|()| true),
        Fate::Stays { .. } => Ok(false),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use llb_common::address::WirePort;
    use llb_common::time::tick;

    use super::*;

    const NOW: Tick = tick(100_000_000_000);

    /// A table whose flows begin anew after the walk.
    struct Reopened(RefCell<Vec<(ForwardKey, ForwardEntry)>>);

    impl Entries<ForwardKey, ForwardEntry> for Reopened {
        fn each(&self, work: &mut dyn FnMut(ForwardKey, ForwardEntry)) -> io::Result<()> {
            self.0.borrow().iter().for_each(|(key, entry)| work(*key, *entry));
            if let Some((_, entry)) = self.0.borrow_mut().first_mut() {
                entry.used = NOW;
            }
            Ok(())
        }

        fn value_of(&self, key: &ForwardKey) -> io::Result<Option<ForwardEntry>> {
            Ok(self.0.borrow().iter().find(|(other, _)| other == key).map(|(_, entry)| *entry))
        }

        fn remove_one(&self, key: &ForwardKey) -> io::Result<()> {
            self.0.borrow_mut().retain(|(other, _)| other != key);
            Ok(())
        }
    }

    #[test]
    fn a_flow_that_begins_anew_during_the_walk_stays_with_its_reply_entry() {
        let key = |port| ForwardKey { client_port: WirePort::new(port), ..ForwardKey::default() };
        let over = ForwardEntry { used: tick(1_000_000_000), ..ForwardEntry::default() };
        let flows = Reopened(RefCell::new(vec![(key(1), over), (key(2), over)]));
        let reply_of = |key: &ForwardKey| ReplyKey { snat_port: key.client_port, ..ReplyKey::default() };
        let fate_of = |key: &ForwardKey, entry: &ForwardEntry| match is_expired(entry.used, NOW, CLOSED_SECS)
        {
            true => Fate::Gone(Some(reply_of(key))),
            false => Fate::Stays { is_open: true },
        };
        let mut removed = Vec::new();
        sweep_flows(&flows, &fate_of, &mut |_, _| (), &mut |reply| {
            removed.push(*reply);
            Ok(())
        })
        .unwrap();
        assert_eq!(removed, [reply_of(&key(2))]);
        assert_eq!(flows.0.borrow().iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key(1)]);
    }
}
