//! A client's packet to a frontend: which backend, and as what it gets there.
//! This is the way of a flow that is known; how one begins is in `begin.rs`.

use llb_common::address::Port;
use llb_common::backend::{BackendEntry, BackendId};
use llb_common::conntrack::{ForwardEntry, ForwardKey, opens, step, way};
use llb_common::frontend::{DSR, FrontendEntry};
use llb_common::parse::{Packet, Shape};
use llb_common::reason::Reason;
use llb_common::settings::LinkSettings;

use crate::decide::{Decision, Stop, now};
use crate::hooks::Hook;
use crate::maps::{FLOWS, PENDING_FLOWS, backend};
use crate::{begin, confirm};

#[inline(always)]
pub(crate) fn decide<H: Hook>(
    hook: &H,
    packet: &Packet,
    decision: &mut Decision,
    frontend: &FrontendEntry,
    link: &LinkSettings,
) -> Result<(), Stop> {
    let key = key_of(packet, frontend);
    let is_dsr = frontend.flags & DSR != 0;
    let begins = opens(packet.tcp_flags);
    let known = find(&key).and_then(|(flow, is_pending)| {
        // SAFETY: the memory stays while the program runs; a flow that is
        // removed meanwhile may be another one's, whose backend is as alive.
        let entry = unsafe { *flow };
        let backend = backend(entry.backend).filter(|backend| backend.takes(begins))?;
        Some((flow, entry, backend, is_pending))
    });
    let mut chosen = None;
    if let Some((flow, entry, backend, is_pending)) = known {
        let mut is_kept = true;
        if packet.shape != Shape::Error as u8 {
            touch(flow, &entry, packet);
            if !is_dsr && entry.way != way(link.ifindex, packet.source_mac) {
                confirm::turn(flow, backend, packet, link);
            }
            if is_pending {
                is_kept = confirm::confirm(&key, flow, backend, packet, is_dsr);
            }
        }
        chosen = is_kept.then_some((backend, entry.snat_port));
    }
    let (backend, snat_port) = match chosen {
        Some(chosen) => chosen,
        None => begin(hook, packet, decision, frontend, link)?,
    };
    fill(decision, packet, backend, snat_port, is_dsr);
    if backend.mtu != 0 && packet.length > backend.mtu && !hook.is_segmented() {
        return Err(Reason::TooBig.into());
    }
    let fits = backend.address.is_v4() == (packet.is_v6 == 0) && backend.snat.is_v4() == (packet.is_v6 == 0);
    if is_dsr || fits { Ok(()) } else { Err(Reason::BadBackend.into()) }
}

/// Through the scratch memory, so that it can be a function of its own.
#[inline(always)]
fn begin<H: Hook>(
    hook: &H,
    packet: &Packet,
    decision: &mut Decision,
    frontend: &FrontendEntry,
    link: &LinkSettings,
) -> Result<(&'static BackendEntry, Port), Stop> {
    decision.backend = BackendId(0);
    decision.ifindex = 0;
    let stopped = begin::begin(hook.context(), packet, decision, frontend, link);
    if let Some(reason) = Reason::ALL.get(stopped as usize) {
        return Err((*reason).into());
    }
    let backend = backend(decision.backend).ok_or(Reason::NoLiveBackend)?;
    Ok((backend, decision.source_port))
}

#[inline(always)]
pub(crate) fn key_of(packet: &Packet, frontend: &FrontendEntry) -> ForwardKey {
    ForwardKey { client: packet.source, frontend: frontend.id, client_port: packet.source_port, padding: 0 }
}

/// The entry, and whether it is a pending one.
#[inline(always)]
fn find(key: &ForwardKey) -> Option<(*mut ForwardEntry, bool)> {
    match FLOWS.get_ptr_mut(key) {
        Some(flow) => Some((flow, false)),
        None => PENDING_FLOWS.get_ptr_mut(key).map(|flow| (flow, true)),
    }
}

/// Time and life cycle; memory is written only where something changes.
#[inline(always)]
fn touch(flow: *mut ForwardEntry, entry: &ForwardEntry, packet: &Packet) {
    let (now, seen) = (now(), seen_after(entry.seen, packet));
    // SAFETY: single fields of memory that stays while the program runs.
    // Another CPU may write the same ones: the flow then has either value.
    unsafe {
        if entry.used != now {
            (*flow).used = now;
        }
        if entry.seen != seen {
            (*flow).seen = seen;
        }
    }
}

/// A later fragment has no flags of its own.
#[inline(always)]
pub(crate) fn seen_after(seen: u8, packet: &Packet) -> u8 {
    if packet.shape == Shape::Transport as u8 { step(seen, packet.tcp_flags) } else { seen }
}

#[inline(always)]
fn fill(decision: &mut Decision, packet: &Packet, backend: &BackendEntry, snat_port: Port, is_dsr: bool) {
    decision.source = if is_dsr { packet.source } else { backend.snat };
    decision.destination = if is_dsr { packet.destination } else { backend.address };
    decision.backend = backend.id;
    decision.ifindex = backend.ifindex;
    decision.source_port = snat_port;
    decision.destination_port = backend.port;
    decision.destination_mac = backend.mac;
    decision.source_mac = backend.source_mac;
    decision.is_nat = u32::from(!is_dsr);
}
