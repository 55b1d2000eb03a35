// SPDX-License-Identifier: Apache-2.0
//! Removes flows that are over, and counts the others. `llb_common::conntrack` decides when a
//! flow is over; this file walks the maps, many entries at a time.

use std::collections::{BTreeMap, HashMap};
use std::io;

use llb_common::backend::{BackendEntry, BackendId};
use llb_common::conntrack::{
    CLOSED_SECS, ForwardEntry, ForwardKey, ReplyEntry, ReplyKey, closes, forward_key, is_expired,
    lifetime_secs,
};
use llb_common::frontend::TCP;
use llb_common::port_holder::pending_secs;
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
        let fate_of = |key: &ForwardKey, entry: &ForwardEntry| {
            let backend = backends.get(entry.backend);
            judge(&|key| reply_of(maps, key), (key, entry, is_pending), backend.as_ref(), now)
        };
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
        let is_over = |key: &ReplyKey, entry: &ReplyEntry| {
            let backend = backends.get(entry.backend);
            is_orphan(&|key| flow_of(maps, key), (key, entry), backend.as_ref(), now)
        };
        let mut orphans = Vec::new();
        replies.each(&mut |key, entry: ReplyEntry| {
            if is_over(&key, &entry) {
                orphans.push(key);
            }
        })?;
        replies.remove_if(&orphans, &mut |key, entry| Ok(is_over(key, entry)))?;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays { is_open: bool },
    Gone(Option<ReplyKey>),
}

/// Decides what becomes of a flow. It is as young as the younger of its two entries.
fn judge(
    reply_of: &dyn Fn(&ReplyKey) -> Option<ReplyEntry>,
    (key, entry, is_pending): (&ForwardKey, &ForwardEntry, bool),
    backend: Option<&BackendEntry>,
    now: Tick,
) -> Fate {
    let Some(backend) = backend else { return Fate::Gone(None) };
    let is_nat = entry.snat_port.number() != 0;
    let reply_key = is_nat.then(|| reply_key(backend, entry));
    let is_its = |reply: &ReplyEntry| {
        reply.backend == entry.backend && reply.client == key.client && reply.client_port == key.client_port
    };
    let reply = || reply_key.and_then(|key| reply_of(&key)).filter(is_its);
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
    let mut lifetime = lifetime_secs(backend.protocol, entry.seen, reply.map_or(0, |reply| reply.seen));
    if let Some(reply) = reply.filter(|_| is_pending) {
        lifetime = lifetime.min(pending_secs(backend.protocol, backend.vip_port.number(), reply.seen));
    }
    if is_expired(used, now, lifetime) {
        return Fate::Gone(reply_key.filter(|_| reply.is_some()));
    }
    Fate::Stays { is_open: lifetime != CLOSED_SECS }
}

/// Whether a reply entry has no flow any more: its backend is gone, or its client has no forward entry with this
/// backend and this source port. Only idle entries are looked at: an entry in use has its flow, and so has
/// one that has just been made, or will have it in a moment.
fn is_orphan(
    flow_of: &dyn Fn(&ForwardKey) -> Option<ForwardEntry>,
    (key, reply): (&ReplyKey, &ReplyEntry),
    backend: Option<&BackendEntry>,
    now: Tick,
) -> bool {
    let Some(backend) = backend else { return true };
    let flow_key =
        forward_key(reply.client, reply.client_port, backend.vip, backend.vip_port, backend.protocol);
    let is_its = |flow: &ForwardEntry| flow.backend == reply.backend && flow.snat_port == key.snat_port;
    let has_flow = || flow_of(&flow_key).is_some_and(|flow| is_its(&flow));
    // It is looked up twice, as a change next to it hides an entry for a moment.
    is_expired(reply.used, now, CLOSED_SECS) && !has_flow() && !has_flow()
}

/// The entry in `FLOWS` counts, as it does for a client's packets.
fn flow_of(maps: &Maps, key: &ForwardKey) -> Option<ForwardEntry> {
    let placed = maps.flows.words().get(key);
    placed.or_else(|| maps.pending_flows.get(key).ok().flatten())
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

    use llb_common::address::{Address, WirePort};
    use llb_common::backend::ACTIVE;
    use llb_common::conntrack::{ACK, DATA, FIN, HALF_OPEN_SECS, SYN, UDP_SECS};
    use llb_common::frontend::UDP;
    use llb_common::time::tick;

    use super::*;

    const ID: BackendId = BackendId::new(1, 1);
    const OTHER: BackendId = BackendId::new(2, 1);
    const PORT: WirePort = WirePort::new(40_000);
    const OPEN: Fate = Fate::Stays { is_open: true };

    fn backend(id: BackendId, protocol: u8) -> BackendEntry {
        let address = Address::from_v4_word(id.0);
        BackendEntry {
            id,
            address,
            protocol,
            vip_port: WirePort::new(53),
            state: ACTIVE,
            ..Default::default()
        }
    }

    fn at(secs: u64) -> Tick {
        tick(secs * 1_000_000_000)
    }

    /// What becomes of a pending flow to `ID` that had its last packet in each direction at the same time.
    fn pending(protocol: u8, seen: u8, reply_seen: u8, idle_secs: u32) -> Fate {
        let backend = backend(ID, protocol);
        let entry = ForwardEntry { backend: ID, snat_port: PORT, seen, ..Default::default() };
        let its_key = reply_key(&backend, &entry);
        let reply = ReplyEntry { backend: ID, seen: reply_seen, ..Default::default() };
        let reply_of = |key: &ReplyKey| (*key == its_key).then_some(reply);
        let fate = judge(
            &reply_of,
            (&ForwardKey::default(), &entry, true),
            Some(&backend),
            at(u64::from(idle_secs)),
        );
        if let Fate::Gone(reply) = fate {
            assert_eq!(reply, Some(its_key), "its source port becomes free, too");
        }
        fate
    }

    #[test]
    fn a_connection_without_an_answer_is_forgotten_like_an_opening_whatever_began_it() {
        for seen in [SYN, DATA, FIN, DATA | FIN] {
            assert_eq!(pending(TCP, seen, 0, HALF_OPEN_SECS - 2), OPEN, "{seen}");
            assert!(matches!(pending(TCP, seen, 0, HALF_OPEN_SECS + 3), Fate::Gone(_)), "{seen}");
        }
        // One that began before this box saw it is answered.
        assert_eq!(pending(TCP, DATA, ACK, 7000), OPEN);
    }

    #[test]
    fn a_question_to_a_well_known_port_and_its_answer_are_forgotten_early() {
        assert!(matches!(pending(UDP, DATA, DATA, 33), Fate::Gone(_)));
        assert!(matches!(pending(UDP, DATA, 0, 33), Fate::Gone(_)));
        assert_eq!(pending(UDP, DATA, DATA, 27), OPEN);
    }

    #[test]
    fn a_reply_entry_whose_flow_went_elsewhere_is_an_orphan() {
        let backend = backend(ID, TCP);
        let named = |id, snat_port| ForwardEntry { backend: id, snat_port, ..Default::default() };
        let key = reply_key(&backend, &named(ID, PORT));
        let reply = ReplyEntry { backend: ID, used: at(1000), ..Default::default() };
        let is_orphan = |flow: Option<ForwardEntry>, secs| {
            is_orphan(&|_| flow, (&key, &reply), Some(&backend), at(1000 + secs))
        };
        assert!(is_orphan(None, 33), "its flow is forgotten");
        assert!(is_orphan(Some(named(OTHER, PORT)), 33), "its flow has another backend");
        assert!(is_orphan(Some(named(ID, WirePort::new(1))), 33), "its flow has another source port");
        assert!(!is_orphan(Some(named(ID, PORT)), 7000), "it is idle");
        assert!(!is_orphan(None, u64::from(CLOSED_SECS) - 2), "its flow may be about to begin");
        assert!(super::is_orphan(&|_| Some(named(ID, PORT)), (&key, &reply), None, at(1000)), "no backend");
    }

    #[test]
    fn a_conversation_is_kept_for_longer() {
        let (backend, key) = (backend(ID, UDP), ForwardKey::default());
        let entry = ForwardEntry { backend: ID, snat_port: PORT, seen: DATA, ..Default::default() };
        let reply = ReplyEntry { backend: ID, seen: DATA, ..Default::default() };
        let after = |secs: u32| {
            let now = at(u64::from(secs));
            judge(&|_| Some(reply), (&key, &entry, false), Some(&backend), now)
        };
        assert_eq!(after(UDP_SECS - 2), OPEN);
        assert!(matches!(after(UDP_SECS + 3), Fate::Gone(_)));
    }

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
