// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The life of a known connection: what is noted of a packet that may change it, and whether that packet is
//! believed. Nearly no packet changes it. Whom to believe is decided in `llb_common::life_cycle`, and when a
//! flow is forgotten in `llb_common::conntrack`.
//!
//! The client's packets say where both streams are: its sequence number and its acknowledgement. They are noted
//! once in a tick by `flow::touch`, and here.

use llb_common::address::WirePort;
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{
    ACK, DATA, FIN, ForwardEntry, RESET_BY_OTHER, RST, ReplyEntry, SYN, forward_key, opens,
};
use llb_common::frontend::TCP;
use llb_common::life_cycle::{Place, is_steady, place, step};
use llb_common::parse::{Packet, Shape};

use crate::flow::{find_reply, is_reply_of, reply_key};
use crate::flow_table::flows;
use crate::maps::PENDING_FLOWS;

/// Follows the life of a flow by a packet of its client. `entry` is a copy of `*flow`.
#[inline(always)]
pub(crate) fn follow(flow: *mut ForwardEntry, entry: &ForwardEntry, backend: &BackendEntry, packet: &Packet) {
    if !is_steady(entry.seen, packet.tcp_flags) {
        of_client(flow, backend, packet);
    }
}

/// The same for a packet of its backend.
#[inline(always)]
pub(crate) fn follow_reply(reply: *mut ReplyEntry, backend: &BackendEntry, packet: &Packet) {
    // SAFETY: `reply` points to a value of a map, which is valid until the program returns; one field is read.
    if !is_steady(unsafe { (*reply).seen }, packet.tcp_flags) {
        of_backend(reply, backend, packet);
    }
}

/// The sequence number that nothing of this side exceeds, if the packet has a FIN; else its own.
#[inline(always)]
pub(crate) fn next_of(packet: &Packet) -> u32 {
    // The IP packet is longer than the part of the stream in it, and a FIN counts as one byte.
    let length = if packet.tcp_flags & FIN != 0 { u32::from(packet.length) } else { 0 };
    packet.sequence().wrapping_add(length)
}

#[inline(never)]
fn of_client(flow: *mut ForwardEntry, backend: &BackendEntry, packet: &Packet) {
    // Later fragments have no TCP flags, so they change nothing.
    if packet.shape != Shape::Transport as u8 {
        return;
    }
    // SAFETY: `flow` points to a value of a map, which is valid until the program returns. Only single fields
    // are read and written. If another CPU writes them too, one packet is not noted, and a later one is.
    unsafe {
        let before = (*flow).seen;
        let at = place((*flow).seq, packet.sequence());
        let seen = step(before, packet.tcp_flags, at);
        if seen != before {
            (*flow).seen = seen;
        }
        let begins = opens(packet.tcp_flags) && seen == SYN;
        let stays_closed = seen & FIN != 0 && packet.tcp_flags & FIN == 0;
        // Only packets that open a connection, and resets, have no acknowledgement.
        let is_noted = packet.tcp_flags & ACK != 0 && at != Place::Elsewhere && !stays_closed;
        if packet.protocol == TCP && (begins || is_noted) {
            (*flow).seq = next_of(packet);
            (*flow).ack = packet.acknowledged();
        }
        if packet.tcp_flags & RST != 0 && at != Place::Elsewhere && (*flow).snat_port != WirePort::default() {
            let Some((reply, _)) = find_reply(&reply_key(backend, (*flow).snat_port)) else { return };
            let is_its = is_reply_of(&*reply, &packet.source, packet.source_port, backend.id);
            if is_its && (*reply).seen & DATA != 0 {
                (*reply).seen |= RESET_BY_OTHER;
            }
        }
    }
}

#[inline(never)]
fn of_backend(reply: *mut ReplyEntry, backend: &BackendEntry, packet: &Packet) {
    if packet.shape != Shape::Transport as u8 {
        return;
    }
    // SAFETY: `reply` and `flow` point to values of maps, which are valid until the program returns. Only
    // single fields are read and written. If another CPU writes them too, one packet is not noted, and a later
    // one is. In an LRU map `flow` may become another flow's entry; this has the same effect.
    unsafe {
        let before = (*reply).seen;
        let mut at = Place::Near;
        if (before | packet.tcp_flags) & (FIN | RST | RESET_BY_OTHER) != 0 {
            let key = forward_key(
                (*reply).client,
                (*reply).client_port,
                backend.vip,
                backend.vip_port,
                packet.protocol,
            );
            at = Place::Elsewhere;
            let found = flows().find_by_tag(&key).or_else(|| PENDING_FLOWS.get_ptr_mut(&key));
            if let Some(flow) = found
                && (*flow).backend == backend.id
                && (*flow).snat_port == packet.destination_port
                && place((*flow).ack, packet.sequence()) != Place::Elsewhere
            {
                // Bytes behind a FIN can't be told from those before it: nobody knows where it was.
                at = Place::Near;
                if packet.tcp_flags & RST != 0 && (*flow).seen & DATA != 0 {
                    (*flow).seen |= RESET_BY_OTHER;
                }
            }
        }
        let seen = step(before, packet.tcp_flags, at);
        if seen != before {
            (*reply).seen = seen;
        }
    }
}
