//! Which backend a new flow gets: the one of affinity, else that of its slot
//! in the Maglev table.

use llb_common::backend::{BackendEntry, BackendId};
use llb_common::frontend::{AffinityEntry, AffinityKey, FrontendEntry, MemberKey};
use llb_common::hash::FlowKey;
use llb_common::parse::Packet;
use llb_common::time::{Tick, elapsed_secs};

use crate::decide::Decision;
use crate::maps::{AFFINITY, MAGLEV, MEMBERS, backend};

/// Slots that are looked at, the flow's own and those behind it: the backends
/// there may be dead while the agent makes a table without them.
const MOST_SLOTS: u64 = 4;

/// Leaves the id of the backend in `decision`; none where there is none.
/// `begins`: the packet is the first of its flow, not one of a flow that
/// another box, or nobody, remembers.
#[inline(never)]
pub(crate) fn select(
    packet: &Packet,
    decision: &mut Decision,
    frontend: &FrontendEntry,
    begins: u32,
    now: Tick,
) {
    if let Some(chosen) = choose(packet, frontend, begins != 0, now) {
        decision.backend = chosen.id;
    }
}

#[inline(always)]
fn choose(
    packet: &Packet,
    frontend: &FrontendEntry,
    begins: bool,
    now: Tick,
) -> Option<&'static BackendEntry> {
    if frontend.affinity_secs == 0 {
        return by_hash(packet, frontend, begins, now);
    }
    let key = AffinityKey { client: packet.source, service: frontend.service, padding: 0 };
    // SAFETY: read at once.
    let last = unsafe { AFFINITY.get(&key) };
    let chosen = last
        .filter(|last| elapsed_secs(last.used, now) <= frontend.affinity_secs)
        .and_then(|last| member(frontend.id, last.host, begins));
    chosen.or_else(|| by_hash(packet, frontend, begins, now))
}

/// Remembers which host the client of a flow that begins has got.
#[inline(always)]
pub(crate) fn remember_host(packet: &Packet, frontend: &FrontendEntry, host: u32, now: Tick) {
    if frontend.affinity_secs == 0 {
        return;
    }
    let key = AffinityKey { client: packet.source, service: frontend.service, padding: 0 };
    // If there is no room, the hash gives the same backend again.
    let _ = AFFINITY.insert(&key, &AffinityEntry { host, used: now }, 0);
}

#[inline(always)]
fn member(frontend: u32, host: u32, begins: bool) -> Option<&'static BackendEntry> {
    // SAFETY: read at once.
    let id = unsafe { MEMBERS.get(&MemberKey { frontend, host }) }?;
    backend(*id).filter(|backend| backend.takes(begins))
}

#[inline(always)]
fn by_hash(
    packet: &Packet,
    frontend: &FrontendEntry,
    begins: bool,
    now: Tick,
) -> Option<&'static BackendEntry> {
    // With affinity all flows of a client are one.
    let is_whole = frontend.affinity_secs == 0;
    let flow = FlowKey {
        source: packet.source.bytes(),
        destination: if is_whole { packet.destination.bytes() } else { [0; 16] },
        source_port: if is_whole { packet.source_port.number() } else { 0 },
        destination_port: if is_whole { packet.destination_port.number() } else { 0 },
        protocol: if is_whole { packet.protocol } else { 0 },
    };
    let hash = flow.hash();
    let table = frontend.table_for(begins, now);
    let found = (0..MOST_SLOTS).find_map(|behind| in_slot(table, hash, behind, begins));
    // The previous table may have nobody left.
    found.or_else(|| in_slot(frontend.table, hash, 0, begins))
}

#[inline(always)]
fn in_slot(
    table: llb_common::frontend::Table,
    hash: u64,
    behind: u64,
    begins: bool,
) -> Option<&'static BackendEntry> {
    let (chunk, place) = table.place(hash, behind);
    let id = *MAGLEV.get(chunk)?.get(place)?;
    backend(BackendId(id)).filter(|backend| backend.takes(begins))
}
