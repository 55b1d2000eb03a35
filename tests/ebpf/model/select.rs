// SPDX-License-Identifier: Apache-2.0
//! Which backend and which source port a new flow gets.

use std::net::IpAddr;

use llb_common::address::WirePort;
use llb_common::conntrack::candidate_port;
use llb_common::hash::FlowKey;

use super::flows::{FlowName, Memory, Reply, Way, reply_name};
use super::state::Model;
use super::world::{Backend, Frontend, FrontendName, Id, World};

/// Seconds for which packets that open nothing go by the table before the last change.
const PREVIOUS_SECS: u64 = 120;
/// Limit of slots, and of source ports, that are tried.
const SLOTS: u64 = 32;
const PORTS: u32 = 16;
const PORTS_AT_ONCE: usize = 4;

pub(super) struct Chosen<'w> {
    pub(super) backend: &'w Backend,
    /// Whether it is not known to fail.
    pub(super) is_well: bool,
}

/// Backends that a flow should not get.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Except {
    Nobody,
    /// Never this one.
    This(Id),
    /// Never this one, and none that refused the last connection if there is another.
    ThisAndRefusing(Id),
    /// Never this one, and no suspected one if there is another.
    ThisAndSuspected(Id),
}

/// Selects a backend. `begins`: the packet is, or may be, the first of its flow.
pub(super) fn backend<'w>(
    world: &'w World,
    model: &Model,
    (name, frontend): (&FrontendName, &Frontend),
    client: (IpAddr, u16),
    begins: bool,
    except: Except,
) -> Option<Chosen<'w>> {
    let now = model.now;
    let not = match except {
        Except::Nobody => None,
        Except::This(id) | Except::ThisAndRefusing(id) | Except::ThisAndSuspected(id) => Some(id),
    };
    let takes = |backend: &&Backend| backend.takes(begins) && Some(backend.id) != not;
    // Marks matter only for packets that open connections, and only in mode NAT: a Node whose nodePort refuses
    // may still take packets in mode DSR.
    let is_bad = |backend: &Backend| match except {
        Except::Nobody | Except::This(_) => model.is_failing(backend),
        Except::ThisAndRefusing(_) => model.is_refusing(backend),
        Except::ThisAndSuspected(_) => model.is_suspected(backend),
    };
    let is_well = |backend: &&Backend| !(begins && !frontend.is_dsr && is_bad(backend));
    let well = |backend| Chosen { backend, is_well: true };
    if let Some((host, began)) = model.memory.affinity.get(&(client.0, frontend.service))
        && frontend.affinity_secs > 0
        && now - began <= frontend.affinity_secs
    {
        let of_host = |backend: &&Backend| backend.frontend == *name && backend.host == *host;
        let of_host = world.backends.values().find(of_host).filter(takes).filter(is_well);
        if of_host.is_some() {
            return of_host.map(well);
        }
    }
    let hash = hash(*name, client, frontend.affinity_secs > 0);
    let at = |table: &[Id], behind: u64| {
        let slot = hash.wrapping_add(behind) % table.len() as u64;
        world.backend(table[slot as usize]).filter(takes)
    };
    match &frontend.previous {
        Some((previous, changed)) if !begins && !previous.is_empty() && now - changed < PREVIOUS_SECS => {
            (0..SLOTS).find_map(|behind| at(previous, behind)).or_else(|| at(&frontend.table, 0)).map(well)
        }
        _ => {
            let mut all = (0..SLOTS).filter_map(|behind| at(&frontend.table, behind));
            let is_alive = |backend: &&Backend| !model.is_failing(backend);
            let own = all.clone().find(is_alive).or_else(|| all.clone().next())?;
            Some(all.find(is_well).map_or(Chosen { backend: own, is_well: false }, well))
        }
    }
}

/// The hash that selects a slot. With affinity it is the same for all flows of a client.
fn hash((vip, port, protocol): FrontendName, client: (IpAddr, u16), has_affinity: bool) -> u64 {
    let wide = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let none = FlowKey {
        source: wide(client.0),
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
    };
    let whole =
        FlowKey { destination: wide(vip), source_port: client.1, destination_port: port, protocol, ..none };
    if has_affinity { none.hash() } else { whole.hash() }
}

/// Takes a source port that no other flow of this backend has and that belongs to no frontend, and creates its
/// reply entry. First comes the port of the flow that had this name last, if it went to this backend. Then it looks at
/// four candidates at a time: a free one is taken first, else one whose flow gives way.
/// If no candidate will do, it takes one whose flow gives way at last.
pub(super) fn snat_port(
    world: &World,
    model: &mut Model,
    flow: &FlowName,
    backend: &Backend,
    way: Way,
) -> Option<u16> {
    let (memory, now) = (&mut model.memory, model.now);
    let (first, last) = (*world.snat_ports.start(), *world.snat_ports.end());
    let candidates: Vec<u16> = (0..PORTS)
        .map(|attempt| candidate_port(flow.0.into(), WirePort::new(flow.1), attempt, first, last).number())
        .collect();
    let new =
        Reply { client: (flow.0, flow.1), backend: backend.id, seen: 0, is_refused: false, way, used: now };
    let claim = |memory: &mut Memory, port: u16| {
        if let Some(reply) = memory.reply_of(flow, backend, port) {
            // The entry is from before; the client may have moved since.
            reply.way = way;
            return true;
        }
        let name = reply_name(backend, port);
        let is_taken = memory.reply(&name).is_some();
        if is_taken || world.frontends.contains_key(&(backend.snat, port, name.3)) {
            return false;
        }
        memory.pending_replies.insert(name, new);
        true
    };
    let former = memory.flows.get(flow).filter(|former| former.backend == backend.id);
    let former = former.map(|former| former.snat_port).filter(|port| world.snat_ports.contains(port));
    if let Some(port) = former
        && claim(memory, port)
    {
        return Some(port);
    }
    for some in candidates.chunks(PORTS_AT_ONCE) {
        for &port in some {
            if claim(memory, port) {
                return Some(port);
            }
        }
        for &port in some {
            let name = reply_name(backend, port);
            if memory.end(world, &name, now, false) {
                memory.pending_replies.insert(name, new);
                return Some(port);
            }
        }
    }
    let port =
        candidates.into_iter().find(|port| memory.end(world, &reply_name(backend, *port), now, true))?;
    memory.pending_replies.insert(reply_name(backend, port), new);
    Some(port)
}
