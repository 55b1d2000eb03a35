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

use crate::decide::{Decision, Stop};
use crate::forward::{backend_of, key_of, touch};
use crate::maps::{BUDGET, FLOWS, FRONTENDS, PENDING_FLOWS, SETTINGS, SOURCE_RANGES, backend};
use crate::{confirm, counters, ports, select};

/// What [`begin`] returns where there is no reason.
const BEGUN: u32 = u32::MAX;

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
    if is_pending(packet, decision, link) != 0 {
        return Ok(());
    }
    let stopped = begin(context, packet, decision, frontend, link);
    Reason::ALL.get(stopped as usize).map_or(Ok(()), |reason| Err((*reason).into()))
}

/// A [`Reason`] as a number, or [`BEGUN`]: functions return a register.
#[inline(never)]
fn begin(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    frontend: &FrontendEntry,
    link: &LinkSettings,
) -> u32 {
    match try_begin(context, packet, decision, frontend, link) {
        Ok(()) => BEGUN,
        Err(reason) => reason as u32,
    }
}

/// Whether the flow is pending, and stays a flow: 1, else 0.
#[inline(never)]
fn is_pending(packet: &Packet, decision: &mut Decision, link: &LinkSettings) -> u32 {
    (decision.backend, decision.ifindex) = (BackendId(0), 0);
    let key = key_of(packet);
    let Some(flow) = PENDING_FLOWS.get_ptr_mut(&key) else { return 0 };
    // SAFETY: as that of `FLOWS`; in an LRU map it may be another flow's now,
    // whose backend is as alive.
    let entry = unsafe { *flow };
    let Some(backend) = backend_of(&entry, packet) else { return 0 };
    if packet.shape != Shape::Error as u8 {
        touch(flow, &entry, packet, decision.now);
        if entry.snat_port != Port::default() && entry.way != way(link.ifindex, packet.source_mac) {
            confirm::turn(flow, backend, packet, link);
        }
        if !confirm::confirm(&key, flow, backend, packet) {
            return 0;
        }
    }
    (decision.backend, decision.source_port) = (entry.backend, entry.snat_port);
    1
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
    let is_error = packet.shape == Shape::Error as u8;
    let is_reset = packet.tcp_flags & RST != 0;
    let is_new = packet.protocol != TCP || opens(packet.tcp_flags);
    if frontend.flags & KNOWN_FLOWS_ONLY != 0 || (frontend.flags & OPENINGS_ONLY != 0 && !is_new) {
        return Err(Reason::NotTaken);
    }
    if frontend.table.slots == 0 {
        return Err(Reason::NoBackends);
    }
    if is_error && !is_dsr {
        return Err(Reason::UnknownError);
    }
    if frontend.flags & RESTRICTED != 0 && is_admitted(packet, frontend) == 0 {
        return Err(Reason::SourceDenied);
    }
    if is_reset && !is_dsr {
        return Err(Reason::UnknownReset);
    }
    let now = decision.now;
    // Nothing tells a first UDP packet from a later one. An error goes where
    // the packets of its flow go.
    let begins = is_new;
    decision.source_port = Port::default();
    decision.backend = BackendId(0);
    select::select(packet, decision, frontend, u32::from(begins), now);
    let backend = backend(decision.backend).ok_or(Reason::NoLiveBackend)?;
    if is_error || is_reset {
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
    let _ = FLOWS.remove(&key);
    // Without room (no CPU has a free or old entry) it is forwarded all the same.
    let _ = PENDING_FLOWS.insert(&key, &entry, 0);
    counters::count_flow(decision.backend);
}
