// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The slow path of a client's packet, for a flow that is not in `FLOWS`: it is pending, or it begins. Then a
//! backend is chosen for it, and it is remembered as pending.

use core::ffi::c_void;

use llb_common::address::WirePort;
use llb_common::backend::BackendId;
use llb_common::conntrack::{ForwardEntry, RST, next_hop, opens};
use llb_common::frontend::{
    DSR, DSR_TIME_TO_LIVE, FrontendEntry, FrontendKey, KNOWN_FLOWS_ONLY, NAT_INSTEAD, OPENINGS_ONLY,
    RESTRICTED, SourceRangeKey, TCP,
};
use llb_common::life_cycle::{Place, step};
use llb_common::parse::{Packet, Shape};
use llb_common::reason::Reason;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::confirm::PendingFlow;
use crate::decision::{Decision, Stop, UnassignedFlow};
use crate::flow::{backend_of, key_of, touch};
use crate::flow_table::{flows, remove_flow};
use crate::maps::{BUDGET, FRONTENDS, PENDING_FLOWS, SETTINGS, SOURCE_RANGES, backend};
use crate::outcome::Done;
use crate::{confirm, counters, life, martian, ports, reselect, select};

/// Leaves the id of the backend and the source port in `decision`.
#[inline(always)]
pub(crate) fn find_or_begin(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    link: &LinkSettings,
) -> Result<(), Stop> {
    let key = FrontendKey::new(packet.destination, packet.destination_port, packet.protocol);
    // SAFETY: the value is only read. If the agent replaces it meanwhile, the kernel keeps the old one until
    // the program returns.
    let frontend = unsafe { FRONTENDS.get(&key) }.ok_or(Stop::NotOurs)?;
    decision.nat_instead = u32::from(goes_on_by_nat(packet, frontend));
    match find_pending(context, packet, decision, link) {
        PendingFlow::Gone => {}
        PendingFlow::Unanswered if reselect::replace_backend(decision, packet, frontend).is_yes() => {}
        _ => return Ok(()),
    }
    choose(packet, decision, frontend)?;
    begin(context, packet, decision, frontend, link)?;
    Ok(())
}

/// Looks for a pending flow. Leaves its backend and source port in `decision`; backend 0 if there is none.
#[inline(never)]
fn find_pending(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    link: &LinkSettings,
) -> PendingFlow {
    (decision.backend, decision.ifindex, decision.left.backend) = (BackendId(0), 0, BackendId(0));
    let key = key_of(packet);
    let Some(flow) = PENDING_FLOWS.get_ptr_mut(&key) else { return PendingFlow::Gone };
    // SAFETY: `flow` points to a value of `PENDING_FLOWS`, which is valid until the program returns. In an
    // LRU map this may be a copy of another flow's entry by now; `backend_of` accepts it only with a backend
    // that exists.
    let entry = unsafe { *flow };
    let Some(backend) = backend_of(&entry, packet) else {
        decision.left = entry;
        return PendingFlow::Gone;
    };
    if decision.nat_instead != 0 && entry.snat_port == WirePort::default() {
        return PendingFlow::Gone;
    }
    let mut found = PendingFlow::GoesOn;
    if packet.shape != Shape::Error as u8 {
        touch(context, flow, &entry, backend, packet, link, decision.now);
        life::follow(flow, &entry, backend, packet);
        found = confirm::confirm(&key, flow, backend, packet, decision.now);
        if found == PendingFlow::Gone {
            return PendingFlow::Gone;
        }
    }
    (decision.backend, decision.source_port) = (entry.backend, entry.snat_port);
    found
}

/// Checks whether the flow may begin, and chooses its backend. Not inlined, so that it has a stack frame of
/// its own.
#[inline(never)]
fn choose(packet: &Packet, decision: &mut Decision, frontend: &FrontendEntry) -> Result<(), Reason> {
    let is_dsr = frontend.flags & DSR != 0;
    // A first UDP packet can't be told from a later one, so each counts as the first. An ICMP error goes
    // where a packet of the flow that it is about would go.
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
    if martian::is_martian(packet).is_yes() {
        let is_canary = is_dsr && packet.time_to_live < DSR_TIME_TO_LIVE && begins && packet.protocol == TCP;
        return Err(if is_canary { Reason::Canary } else { Reason::Martian });
    }
    if frontend.flags & RESTRICTED != 0 && !is_admitted(packet, frontend).is_yes() {
        return Err(Reason::SourceDenied);
    }
    if packet.tcp_flags & RST != 0 && !is_dsr {
        return Err(Reason::UnknownReset);
    }
    // A backend is there already if `reselect::replace_backend` chose it.
    if decision.backend == BackendId(0) {
        decision.flow = UnassignedFlow { begins: u32::from(begins), ..UnassignedFlow::of(packet) };
        let _ = select::select(decision, frontend);
    }
    Ok(())
}

/// Remembers the flow and, in mode NAT, finds its source port. Not inlined, so that it has a stack frame of
/// its own.
#[inline(never)]
fn begin(
    context: *mut c_void,
    packet: &Packet,
    decision: &mut Decision,
    frontend: &FrontendEntry,
    link: &LinkSettings,
) -> Result<(), Reason> {
    let is_dsr = frontend.flags & DSR != 0 && decision.nat_instead == 0;
    let now = decision.now;
    decision.source_port = WirePort::default();
    if backend(decision.backend).is_none() {
        return Err(Reason::NoLiveBackend);
    }
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
    // An entry of this key in `FLOWS` is of an older flow, which has ended or whose backend takes it no more.
    let former = flows().find_by_tag(&key_of(packet));
    decision.search.has_former = u32::from(former.is_some());
    if let Some(former) = former {
        // SAFETY: `former` points to a line of `FLOWS`, which is valid until the program returns; it is copied.
        decision.left = unsafe { *former };
    }
    if !is_dsr {
        let has_port = ports::find(context, packet, decision, link).is_yes()
            || reselect::leave_full_backend(decision, packet, frontend).is_yes()
                && ports::find(context, packet, decision, link).is_yes();
        if !has_port {
            return Err(Reason::PortsExhausted);
        }
    }
    if decision.nat_instead != 0 {
        counters::count_reason(Reason::NatInstead);
    }
    let host = backend(decision.backend).map_or(0, |backend| backend.host);
    select::remember_host(packet, frontend, host, now);
    remember(packet, decision, link, now);
    Ok(())
}

/// Whether this is the first packet of a flow in mode DSR that a Node sent back, and mode NAT may take over.
#[inline(always)]
fn goes_on_by_nat(packet: &Packet, frontend: &FrontendEntry) -> bool {
    packet.time_to_live < DSR_TIME_TO_LIVE
        && frontend.flags & (DSR | NAT_INSTEAD) == DSR | NAT_INSTEAD
        && packet.shape == Shape::Transport as u8
        && (packet.protocol != TCP || opens(packet.tcp_flags))
}

/// Whether the client is in the source ranges of the Service.
#[inline(never)]
fn is_admitted(packet: &Packet, frontend: &FrontendEntry) -> Done {
    let SourceRangeKey { prefix_bits, service, address: [a, b, c, d] } =
        SourceRangeKey::client(frontend.service, packet.source);
    let key = aya_ebpf::btf_maps::lpm_trie::Key::new(prefix_bits, [service, a, b, c, d]);
    Done::from(SOURCE_RANGES.get(&key).is_some_and(|admits| *admits != 0))
}

/// Whether this CPU may remember one more new flow in this tick. If so, counts it.
#[inline(always)]
fn is_within_budget(now: Tick) -> bool {
    let (Some(budget), Some(settings)) = (BUDGET.get_ptr_mut(0), SETTINGS.get(0)) else { return false };
    // SAFETY: `BUDGET` is a per-CPU map, so this value is of this CPU only, and no other run of the program
    // begins on this CPU before this one returns.
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

/// Remembers the flow as pending: it is not known yet whether the backend answers.
#[inline(never)]
fn remember(packet: &Packet, decision: &mut Decision, link: &LinkSettings, now: Tick) {
    let key = key_of(packet);
    let entry = ForwardEntry {
        backend: decision.backend,
        used: now,
        snat_port: decision.source_port,
        seen: step(0, packet.tcp_flags, Place::Near),
        is_routed: link.returns_by_routes,
        next_hop: next_hop(link.ifindex, packet.source_mac),
        seq: life::next_of(packet),
        ack: packet.acknowledged(),
    };
    if decision.search.has_former != 0 {
        let _ = remove_flow(&key);
    }
    let left = &decision.left;
    if left.backend != BackendId(0) && (left.backend, left.snat_port) != (entry.backend, entry.snat_port) {
        ports::give_back(&key, left);
    }
    // If there is no room (no CPU has a free or old entry), the packet is forwarded all the same.
    let _ = PENDING_FLOWS.insert(&key, &entry, 0);
    counters::count_flow(decision.backend);
}
