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
    let flows: [&dyn Entries<_, _>; 2] = [&maps.flows, &maps.pending_flows];
    for (flows, is_pending) in flows.into_iter().zip([false, true]) {
        let mut gone: Vec<(ForwardKey, Option<ReplyKey>)> = Vec::new();
        let mut kept = 0;
        flows.each(&mut |key, entry| match judge(
            maps,
            (&key, &entry),
            backends.get(entry.backend).as_ref(),
            now,
        ) {
            Fate::Gone(reply) => gone.push((key, reply)),
            Fate::Stays { is_open } => {
                kept += 1;
                *counts.all.entry(entry.backend).or_default() += 1;
                if is_open {
                    *counts.open.entry(entry.backend).or_default() += 1;
                }
            }
        })?;
        remove(maps, flows, &gone)?;
        *(if is_pending { &mut counts.fill.1 } else { &mut counts.fill.0 }) = kept;
    }
    let replies: [&dyn Entries<_, _>; 2] = [&maps.replies, &maps.pending_replies];
    for replies in replies {
        let mut orphans = Vec::new();
        replies.each(&mut |key, entry: ReplyEntry| {
            if is_orphan(&entry, backends.get(entry.backend).is_some(), now) {
                orphans.push(key);
            }
        })?;
        replies.remove_all(&orphans)?;
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

/// Removes flows, the reply entry first: a packet that finds a flow without one begins it again.
fn remove(
    maps: &Maps,
    flows: &dyn Entries<ForwardKey, ForwardEntry>,
    gone: &[(ForwardKey, Option<ReplyKey>)],
) -> io::Result<()> {
    let replies: Vec<ReplyKey> = gone.iter().filter_map(|(_, reply)| *reply).collect();
    maps.replies.remove_all(&replies)?;
    maps.pending_replies.remove_all(&replies)?;
    let keys: Vec<ForwardKey> = gone.iter().map(|(key, _)| *key).collect();
    flows.remove_all(&keys)
}
