// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! A client's packet to a frontend: which backend, and as what it gets there.
//! This is the way of a flow that is known; how one becomes so is in
//! `begin.rs`.
//!
//! ```text
//!   FLOWS --hit--> touch -----------------------------------------> backend
//!     `--miss--> begin: FRONTENDS, PENDING_FLOWS, ... ------------> backend, or a reason
//! ```

use llb_common::address::Port;
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{FIN, ForwardEntry, ForwardKey, RST, forward_key, opens, step, way};
use llb_common::parse::{Packet, Shape};
use llb_common::reason::Reason;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::decide::{Decision, Stop};
use crate::flow_table::flows;
use crate::hooks::Hook;
use crate::maps::backend;
use crate::{begin, confirm};

#[inline(always)]
pub(crate) fn decide<H: Hook>(
    hook: &H,
    packet: &Packet,
    decision: &mut Decision,
    link: &LinkSettings,
) -> Result<(), Stop> {
    let key = key_of(packet);
    let (backend, snat_port) = match find(&key, packet, decision.now, link) {
        Some(known) => known,
        None => {
            begin::find_or_begin(hook.context(), packet, decision, link)?;
            (backend(decision.backend).ok_or(Reason::NoLiveBackend)?, decision.source_port)
        }
    };
    let is_dsr = snat_port == Port::default();
    fill(decision, packet, backend, snat_port, is_dsr);
    if backend.mtu != 0 && packet.length > backend.mtu && !hook.is_segmented() {
        return Err(Reason::TooBig.into());
    }
    let fits = backend.address.is_v4() == (packet.is_v6 == 0) && backend.snat.is_v4() == (packet.is_v6 == 0);
    if is_dsr || fits { Ok(()) } else { Err(Reason::BadBackend.into()) }
}

#[inline(always)]
pub(crate) fn key_of(packet: &Packet) -> ForwardKey {
    forward_key(
        packet.source,
        packet.source_port,
        packet.destination,
        packet.destination_port,
        packet.protocol,
    )
}

/// Backend and source port of a flow that has its place.
#[inline(always)]
fn find(
    key: &ForwardKey,
    packet: &Packet,
    now: Tick,
    link: &LinkSettings,
) -> Option<(&'static BackendEntry, Port)> {
    let flow = flows().find(key)?;
    // SAFETY: the memory stays while the program runs; a flow that is removed
    // meanwhile may be another one's, whose backend is as alive.
    let entry = unsafe { *flow };
    let backend = backend_of(&entry, packet)?;
    if packet.shape != Shape::Error as u8 {
        let opens_again = opens(packet.tcp_flags) && entry.seen & (FIN | RST) != 0;
        if opens_again && confirm::has_ended(key, flow) != 0 {
            return None;
        }
        touch(flow, &entry, packet, now);
        if entry.snat_port != Port::default() && entry.way != way(link.ifindex, packet.source_mac) {
            confirm::turn(flow, backend, packet, link);
        }
    }
    Some((backend, entry.snat_port))
}

/// Where an entry's packets go; none if it is not of this flow, or they can't go there.
#[inline(always)]
pub(crate) fn backend_of(entry: &ForwardEntry, packet: &Packet) -> Option<&'static BackendEntry> {
    backend(entry.backend)
        .filter(|backend| backend.takes(opens(packet.tcp_flags)) && backend.vip == packet.destination)
}

/// Time and life cycle; memory is written only where something changes.
#[inline(always)]
pub(crate) fn touch(flow: *mut ForwardEntry, entry: &ForwardEntry, packet: &Packet, now: Tick) {
    let seen = seen_after(entry.seen, packet);
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
    if is_dsr {
        decision.source = packet.source.copied();
        decision.destination = packet.destination.copied();
    } else {
        decision.source = backend.snat.copied();
        decision.destination = backend.address.copied();
    }
    decision.backend = backend.id;
    decision.ifindex = backend.ifindex;
    decision.source_port = snat_port;
    decision.destination_port = backend.port;
    decision.destination_mac = backend.mac.copied();
    decision.source_mac = backend.source_mac.copied();
    decision.is_nat = u32::from(!is_dsr);
}
