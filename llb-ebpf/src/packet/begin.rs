// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! A flow that has no place yet: it is pending, or may begin: with which
//! backend, and as what is it remembered. The slow way, and a function of its own.

use core::ffi::c_void;

use llb_common::address::Port;
use llb_common::backend::BackendId;
use llb_common::conntrack::{ForwardEntry, RST, opens, step, way};
use llb_common::frontend::{
    DSR, FrontendEntry, FrontendKey, KNOWN_FLOWS_ONLY, OPENINGS_ONLY, RESTRICTED, SourceRangeKey, TCP,
};
use llb_common::parse::{Packet, Shape};
use llb_common::reason::Reason;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::confirm::{GOES_ON, GONE, UNANSWERED};
use crate::decide::{Decision, Stop};
use crate::flow_table::remove_flow;
use crate::forward::{backend_of, key_of, touch};
use crate::maps::{BUDGET, FRONTENDS, PENDING_FLOWS, SETTINGS, SOURCE_RANGES, backend};
use crate::select::Flow;
use crate::{confirm, counters, failing, ports, select};

/// What a step returns where there is no reason to stop.
const NO_REASON: u32 = u32::MAX;

/// Leaves the id of the backend and the source port in `decision`.
#[inline(always)]
pub(crate) fn find_or_begin(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    link: &LinkSettings,
) -> Result<(), Stop> {
    let key = FrontendKey::new(packet.destination, packet.destination_port, packet.protocol);
    // SAFETY: only read; a value that the agent replaces meanwhile stays
    // until the program ends.
    let frontend = unsafe { FRONTENDS.get(&key) }.ok_or(Stop::NotOurs)?;
    match find_pending(packet, decision, link) {
        GONE => {}
        UNANSWERED if failing::moves(decision, packet, frontend) != 0 => {}
        _ => return Ok(()),
    }
    let mut stopped = choose(packet, decision, frontend);
    if stopped == NO_REASON {
        stopped = begin(context, packet, decision, frontend, link);
    }
    Reason::ALL.get(stopped as usize).map_or(Ok(()), |reason| Err((*reason).into()))
}

/// What becomes of the flow, if it is a pending one; its backend and source
/// port are then in `decision`.
#[inline(never)]
fn find_pending(packet: &Packet, decision: &mut Decision, link: &LinkSettings) -> u32 {
    (decision.backend, decision.ifindex) = (BackendId(0), 0);
    let key = key_of(packet);
    let Some(flow) = PENDING_FLOWS.get_ptr_mut(&key) else { return GONE };
    // SAFETY: as that of a flow with a place; in an LRU map it may be another flow's now,
    // whose backend is as alive.
    let entry = unsafe { *flow };
    let Some(backend) = backend_of(&entry, packet) else { return GONE };
    let mut outcome = GOES_ON;
    if packet.shape != Shape::Error as u8 {
        touch(flow, &entry, packet, decision.now);
        if entry.snat_port != Port::default() && entry.way != way(link.ifindex, packet.source_mac) {
            confirm::turn(flow, backend, packet, link);
        }
        outcome = confirm::confirm(&key, flow, backend, packet, decision.now);
        if outcome == GONE {
            return GONE;
        }
    }
    (decision.backend, decision.source_port) = (entry.backend, entry.snat_port);
    outcome
}

/// Who it may be, and with which backend. A [`Reason`] as a number, or
/// [`NO_REASON`]: functions return a register. One of its own, for its own stack.
#[inline(never)]
fn choose(packet: &Packet, decision: &mut Decision, frontend: &FrontendEntry) -> u32 {
    try_choose(packet, decision, frontend).map_or_else(|reason| reason as u32, |()| NO_REASON)
}

#[inline(always)]
fn try_choose(packet: &Packet, decision: &mut Decision, frontend: &FrontendEntry) -> Result<(), Reason> {
    let is_dsr = frontend.flags & DSR != 0;
    // Nothing tells a first UDP packet from a later one. An error goes where
    // the packets of its flow go.
    let begins = packet.protocol != TCP || opens(packet.tcp_flags);
    if frontend.flags & KNOWN_FLOWS_ONLY != 0 || (frontend.flags & OPENINGS_ONLY != 0 && !begins) {
        return Err(Reason::NotTaken);
    }
    if frontend.table.slots == 0 {
        return Err(Reason::NoBackends);
    }
    if packet.shape == Shape::Error as u8 && !is_dsr {
        return Err(Reason::UnknownError);
    }
    if frontend.flags & RESTRICTED != 0 && is_admitted(packet, frontend) == 0 {
        return Err(Reason::SourceDenied);
    }
    if packet.tcp_flags & RST != 0 && !is_dsr {
        return Err(Reason::UnknownReset);
    }
    // Else it moves, and where to is known.
    if decision.backend == BackendId(0) {
        decision.flow = Flow { begins: u32::from(begins), ..Flow::of(packet) };
        select::select(decision, frontend);
    }
    Ok(())
}

/// As what it is remembered; returns as [`choose`].
#[inline(never)]
fn begin(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    frontend: &FrontendEntry,
    link: &LinkSettings,
) -> u32 {
    try_begin(context, packet, decision, frontend, link).map_or_else(|reason| reason as u32, |()| NO_REASON)
}

#[inline(always)]
fn try_begin(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    frontend: &FrontendEntry,
    link: &LinkSettings,
) -> Result<(), Reason> {
    let is_dsr = frontend.flags & DSR != 0;
    let now = decision.now;
    decision.source_port = Port::default();
    let backend = backend(decision.backend).ok_or(Reason::NoLiveBackend)?;
    if packet.shape == Shape::Error as u8 || packet.tcp_flags & RST != 0 {
        return Ok(());
    }
    if !is_within_budget(now) {
        if is_dsr {
            counters::count_reason(Reason::NotRemembered);
            return Ok(());
        }
        return Err(Reason::OverBudget);
    }
    if !is_dsr {
        let snat_port =
            ports::find(context, packet, decision, backend, link).ok_or(Reason::PortsExhausted)?;
        decision.source_port = snat_port;
        if opens(packet.tcp_flags) {
            failing::tries(backend.id, now);
        }
    }
    select::remember_host(packet, frontend, backend.host, now);
    remember(packet, decision, link, now);
    Ok(())
}

/// Whether the Service's source ranges have the client: 1, else 0.
#[inline(never)]
fn is_admitted(packet: &Packet, frontend: &FrontendEntry) -> u32 {
    let SourceRangeKey { prefix_bits, service, address: [a, b, c, d] } =
        SourceRangeKey::client(frontend.service, packet.source);
    let key = aya_ebpf::btf_maps::lpm_trie::Key::new(prefix_bits, [service, a, b, c, d]);
    u32::from(SOURCE_RANGES.get(&key).is_some_and(|admits| *admits != 0))
}

/// Counts a new flow of this CPU.
#[inline(always)]
fn is_within_budget(now: Tick) -> bool {
    let (Some(budget), Some(settings)) = (BUDGET.get_ptr_mut(0), SETTINGS.get(0)) else { return false };
    // SAFETY: this CPU's own memory, as that of counters.
    let budget = unsafe { &mut *budget };
    if budget.tick != now {
        (budget.tick, budget.used) = (now, 0);
    }
    if budget.used >= settings.flow_budget {
        return false;
    }
    budget.used = budget.used.wrapping_add(1);
    true
}

/// As a pending flow: it is not known yet whether anybody answers.
#[inline(never)]
fn remember(packet: &Packet, decision: &Decision, link: &LinkSettings, now: Tick) {
    let key = key_of(packet);
    let entry = ForwardEntry {
        backend: decision.backend,
        used: now,
        snat_port: decision.source_port,
        seen: step(0, packet.tcp_flags),
        padding: 0,
        way: way(link.ifindex, packet.source_mac),
    };
    // What is there knew a backend that takes no more.
    remove_flow(&key);
    // Without room (no CPU has a free or old entry) it is forwarded all the same.
    let _ = PENDING_FLOWS.insert(&key, &entry, 0);
    counters::count_flow(decision.backend);
}
