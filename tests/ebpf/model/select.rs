// SPDX-License-Identifier: Apache-2.0
//! Which backend a flow gets that is not known, and which source port.

use std::net::IpAddr;

use llb_common::address::WirePort;
use llb_common::conntrack::candidate_port;
use llb_common::hash::FlowKey;

use super::Model;
use super::flows::{FlowName, Reply, Way, reply_name};
use super::world::{Backend, Frontend, FrontendName, Id, World};

/// How long the table before the last change is for packets that begin nothing.
const PREVIOUS_SECS: u64 = 120;
/// Slots that are tried, and source ports.
const SLOTS: u64 = 32;
const PORTS: u32 = 16;
const PORTS_AT_ONCE: usize = 4;

pub(super) struct Chosen<'w> {
    pub(super) backend: &'w Backend,
    /// It is not known to fail.
    pub(super) is_well: bool,
}

/// `begins`: the packet is the first of its flow, or may be. `not`: who had it.
pub(super) fn backend<'w>(
    world: &'w World,
    model: &Model,
    (name, frontend): (&FrontendName, &Frontend),
    client: (IpAddr, u16),
    begins: bool,
    not: Option<Id>,
) -> Option<Chosen<'w>> {
    let now = model.now;
    let takes = |backend: &&Backend| backend.takes(begins) && Some(backend.id) != not;
    // Of those that fail, packets in the middle of a connection are no matter.
    let is_well = |backend: &&Backend| !(begins && model.is_failing(backend));
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
            let own = all.clone().next()?;
            Some(all.find(is_well).map_or(Chosen { backend: own, is_well: false }, well))
        }
    }
}

/// With affinity, all flows of a client have one.
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

/// A port that no other flow of this backend's has, and that is no frontend's;
/// with it comes its reply entry. Four candidates at a time: one that is free, else one
/// that nobody has gone on with. If there is none, one of any whose flow has ended.
pub(super) fn snat_port(
    world: &World,
    model: &mut Model,
    flow: &FlowName,
    backend: &Backend,
    way: Way,
) -> Option<u16> {
    let (memory, began) = (&mut model.memory, model.now);
    let (first, last) = (*world.snat_ports.start(), *world.snat_ports.end());
    let candidates: Vec<u16> = (0..PORTS)
        .map(|attempt| candidate_port(flow.0.into(), WirePort::new(flow.1), attempt, first, last).number())
        .collect();
    let new = Reply { client: (flow.0, flow.1), backend: backend.id, seen: 0, way, began };
    for some in candidates.chunks(PORTS_AT_ONCE) {
        for &port in some {
            if let Some(reply) = memory.reply_of(flow, backend, port) {
                // Left from before; the client may have moved since.
                reply.way = way;
                return Some(port);
            }
            let name = reply_name(backend, port);
            let is_free = memory.reply(&name).is_none();
            if is_free && !world.frontends.contains_key(&(backend.snat, port, name.3)) {
                memory.pending_replies.insert(name, new);
                return Some(port);
            }
        }
        for &port in some {
            let name = reply_name(backend, port);
            if memory.end(world, &name, began, false) {
                memory.pending_replies.insert(name, new);
                return Some(port);
            }
        }
    }
    let port =
        candidates.into_iter().find(|port| memory.end(world, &reply_name(backend, *port), began, true))?;
    memory.pending_replies.insert(reply_name(backend, port), new);
    Some(port)
}
