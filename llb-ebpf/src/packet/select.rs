// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Which backend a new flow gets: the one of affinity, else that of its slot
//! in the Maglev table.

use llb_common::address::{Address, Port};
use llb_common::backend::BackendId;
use llb_common::frontend::{AffinityEntry, AffinityKey, DSR, FrontendEntry, MemberKey, TCP};
use llb_common::hash::FlowKey;
use llb_common::parse::Packet;
use llb_common::time::{Tick, elapsed_secs};

use crate::decide::Decision;
use crate::failing::is_failing;
use crate::maps::{AFFINITY, MAGLEV, MEMBERS, backend};

/// Slots that are looked at, the flow's own and those behind it: the backends
/// there may be failing, or dead while the agent makes a table without them.
/// If half of the slots are of such ones, one flow in 2^32 finds no other.
const MOST_SLOTS: u64 = 32;

/// The flow that needs a backend.
#[repr(C)]
pub(crate) struct Flow {
    pub(crate) client: Address,
    pub(crate) vip: Address,
    pub(crate) client_port: Port,
    pub(crate) vip_port: Port,
    pub(crate) protocol: u32,
    /// 1: the packet is the first of its flow, not one of a flow that another
    /// box, or nobody, remembers.
    pub(crate) begins: u32,
    /// The backend that it shall not get; 0: none.
    pub(crate) avoid: BackendId,
    /// 1: backends that are failing are left out, if there are others; [`select`] knows.
    pub(crate) heeds: u32,
}

impl Flow {
    #[inline(always)]
    pub(crate) fn new(client: (&Address, Port), vip: (&Address, Port), protocol: u8) -> Self {
        Self {
            client: client.0.copied(),
            vip: vip.0.copied(),
            client_port: client.1,
            vip_port: vip.1,
            protocol: u32::from(protocol),
            begins: 1,
            avoid: BackendId(0),
            heeds: 0,
        }
    }

    /// Of a client's packet.
    #[inline(always)]
    pub(crate) fn of(packet: &Packet) -> Self {
        let client = (&packet.source, packet.source_port);
        Self::new(client, (&packet.destination, packet.destination_port), packet.protocol)
    }
}

/// What [`select`] returns: there is no backend.
pub(crate) const NOBODY: u32 = 0;
/// There is one, but it is failing, and so are all others that were looked at.
pub(crate) const ALL_FAIL: u32 = 1;
/// There is one.
pub(crate) const FOUND: u32 = 2;

/// Leaves the id of the backend of `decision.flow` in `decision`, 0 where there is none.
#[inline(never)]
pub(crate) fn select(decision: &mut Decision, frontend: &FrontendEntry) -> u32 {
    decision.backend = BackendId(0);
    let now = decision.now;
    let flow = &mut decision.flow;
    // No others are ever marked so.
    let heeds = flow.begins != 0 && flow.protocol == u32::from(TCP) && frontend.flags & DSR == 0;
    flow.heeds = u32::from(heeds);
    if frontend.affinity_secs != 0
        && let Some(id) = by_affinity(flow, frontend, now)
        && !(flow.heeds != 0 && is_failing(id, now))
    {
        decision.backend = id;
        return FOUND;
    }
    by_hash(decision, frontend)
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
fn by_affinity(flow: &Flow, frontend: &FrontendEntry, now: Tick) -> Option<BackendId> {
    let key = AffinityKey { client: flow.client, service: frontend.service, padding: 0 };
    // SAFETY: read at once.
    let last = unsafe { AFFINITY.get(&key) }?;
    if elapsed_secs(last.used, now) > frontend.affinity_secs {
        return None;
    }
    // SAFETY: read at once.
    let id = unsafe { MEMBERS.get(&MemberKey { frontend: frontend.id, host: last.host }) }?;
    usable(*id, flow)
}

#[inline(always)]
fn by_hash(decision: &mut Decision, frontend: &FrontendEntry) -> u32 {
    let flow = &decision.flow;
    // With affinity all flows of a client are one.
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
    for behind in 0..MOST_SLOTS {
        let (chunk, place) = table.place(hash, behind);
        if look(decision, chunk, place as u32) != 0 {
            return FOUND;
        }
    }
    if decision.backend != BackendId(0) {
        return ALL_FAIL;
    }
    // The previous table may have nobody left.
    let (chunk, place) = frontend.table.place(hash, 0);
    look(decision, chunk, place as u32)
}

/// Leaves the id of the backend in a slot in `decision`, unless there is a
/// failing one there and this one fails too. [`FOUND`] if it does not, else [`NOBODY`].
#[inline(never)]
fn look(decision: &mut Decision, chunk: u32, place: u32) -> u32 {
    let id = MAGLEV.get(chunk).and_then(|chunk| chunk.get(place as usize));
    let Some(id) = id.and_then(|id| usable(BackendId(*id), &decision.flow)) else { return NOBODY };
    if decision.flow.heeds == 0 || !is_failing(id, decision.now) {
        decision.backend = id;
        return FOUND;
    }
    if decision.backend == BackendId(0) {
        decision.backend = id;
    }
    NOBODY
}

#[inline(always)]
fn usable(id: BackendId, flow: &Flow) -> Option<BackendId> {
    let backend = backend(id)?;
    (backend.takes(flow.begins != 0) && id != flow.avoid).then_some(id)
}
