// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Selection: which backend a new flow gets. With affinity, the host that the client had last; else the
//! backend in the flow's slot of the Maglev table.

use llb_common::backend::BackendId;
use llb_common::frontend::{AffinityEntry, AffinityKey, DSR, FrontendEntry, MemberKey, TCP};
use llb_common::hash::FlowKey;
use llb_common::parse::Packet;
use llb_common::time::{Tick, elapsed_secs};

use crate::decision::{AVOIDS_FAILING, Decision, UnassignedFlow};
use crate::failing::is_avoided;
use crate::maps::{AFFINITY, MAGLEV, MEMBERS, backend};

/// Slots that are looked at: the flow's own and those behind it. A backend there may be failing, or dead
/// while the agent still makes a table without it. If half of the slots are of such backends, one flow in
/// 2^32 finds no other.
const MAX_SLOTS: u64 = 32;

/// What [`select`] found.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
#[repr(u32)]
pub(crate) enum Selection {
    /// No backend.
    Nobody = 0,
    /// A backend, but it is one to avoid, as are all others that were looked at.
    AllFailing = 1,
    /// A backend.
    Found = 2,
}

/// Leaves the id of the backend for `decision.flow` in `decision`, 0 if there is none.
#[inline(never)]
pub(crate) fn select(decision: &mut Decision, frontend: &FrontendEntry) -> Selection {
    decision.backend = BackendId(0);
    let now = decision.now;
    let flow = &mut decision.flow;
    // Only such flows get a backend marked as failing, so only they look at the marks.
    let looks = flow.begins != 0 && flow.protocol == u32::from(TCP) && frontend.flags & DSR == 0;
    flow.avoids = if looks { flow.avoids.max(AVOIDS_FAILING) } else { 0 };
    if frontend.affinity_secs != 0
        && let Some(id) = by_affinity(flow, frontend, now)
        && !(flow.avoids != 0 && is_avoided(id, flow.avoids, now))
    {
        decision.backend = id;
        return Selection::Found;
    }
    by_hash(decision, frontend)
}

/// Remembers, for affinity, the host that a new flow of the client got.
#[inline(always)]
pub(crate) fn remember_host(packet: &Packet, frontend: &FrontendEntry, host: u32, now: Tick) {
    if frontend.affinity_secs == 0 {
        return;
    }
    let key = AffinityKey { client: packet.source, service: frontend.service, padding: 0 };
    // If there is no room, the hash gives the same backend again.
    let _ = AFFINITY.insert(&key, &AffinityEntry { host, used: now }, 0);
}

/// The backend on the host that the client had last, if it still may take the flow.
#[inline(always)]
fn by_affinity(flow: &UnassignedFlow, frontend: &FrontendEntry, now: Tick) -> Option<BackendId> {
    let key = AffinityKey { client: flow.client, service: frontend.service, padding: 0 };
    // SAFETY: the value is read at once. In an LRU map it may belong to another client meanwhile; this flow
    // then gets that client's host, which is a backend of this frontend all the same.
    let last = unsafe { AFFINITY.get(&key) }?;
    if elapsed_secs(last.used, now) > frontend.affinity_secs {
        return None;
    }
    // SAFETY: the value is read at once. If the agent removes it meanwhile, `usable` refuses a backend that
    // is gone.
    let id = unsafe { MEMBERS.get(&MemberKey { frontend: frontend.id, host: last.host }) }?;
    usable(*id, flow)
}

/// The backend in the flow's slot of the Maglev table, or in one of the slots behind it.
#[inline(always)]
fn by_hash(decision: &mut Decision, frontend: &FrontendEntry) -> Selection {
    let flow = &decision.flow;
    // With affinity, only the client is hashed, so that all its flows have one slot.
    let is_whole = frontend.affinity_secs == 0;
    let key = FlowKey {
        source: flow.client.bytes(),
        destination: if is_whole { flow.vip.bytes() } else { [0; 16] },
        source_port: if is_whole { flow.client_port.number() } else { 0 },
        destination_port: if is_whole { flow.vip_port.number() } else { 0 },
        protocol: if is_whole { flow.protocol as u8 } else { 0 },
    };
    let hash = key.hash();
    let table = frontend.table_for(flow.begins != 0, decision.now);
    for behind in 0..MAX_SLOTS {
        let (chunk, place) = table.place(hash, behind);
        if look_at_slot(decision, chunk, place as u32) == Selection::Found {
            return Selection::Found;
        }
    }
    if decision.backend != BackendId(0) {
        return Selection::AllFailing;
    }
    // All backends of the previous table may be gone: the current one is the last resort.
    let (chunk, place) = frontend.table.place(hash, 0);
    look_at_slot(decision, chunk, place as u32)
}

/// Looks at one slot. A backend that need not be avoided is [`Selection::Found`]. The first other one is left in
/// `decision` too, or the first that is only suspected, for the case that there is no better one, but the answer
/// is [`Selection::Nobody`].
#[inline(never)]
fn look_at_slot(decision: &mut Decision, chunk: u32, place: u32) -> Selection {
    let id = MAGLEV.get(chunk).and_then(|chunk| chunk.get(place as usize));
    let Some(id) = id.and_then(|id| usable(BackendId(*id), &decision.flow)) else { return Selection::Nobody };
    if decision.flow.avoids == 0 || !is_avoided(id, decision.flow.avoids, decision.now) {
        decision.backend = id;
        return Selection::Found;
    }
    let (chosen, now) = (decision.backend, decision.now);
    if chosen == BackendId(0)
        || is_avoided(chosen, AVOIDS_FAILING, now) && !is_avoided(id, AVOIDS_FAILING, now)
    {
        decision.backend = id;
    }
    Selection::Nobody
}

/// The backend, if it exists and may take the flow.
#[inline(always)]
fn usable(id: BackendId, flow: &UnassignedFlow) -> Option<BackendId> {
    let backend = backend(id)?;
    (backend.takes(flow.begins != 0) && id != flow.excluded).then_some(id)
}
