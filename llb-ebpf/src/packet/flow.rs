// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What several steps do with the entries of a flow: make their keys, find them, compare them, and bring them
//! up to date with one more packet. When an entry is made or removed is decided elsewhere.

use core::ffi::c_void;

use llb_common::address::{Address, WirePort};
use llb_common::backend::{BackendEntry, BackendId};
use llb_common::conntrack::{
    ACK, ForwardEntry, ForwardKey, ReplyEntry, ReplyKey, forward_key, next_hop, opens,
};
use llb_common::life_cycle::{Place, is_steady, place};
use llb_common::parse::Packet;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::flow_table::replies;
use crate::maps::{PENDING_REPLIES, backend};
use crate::return_path;

/// The key of the forward entry of a client's packet.
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

/// The key of the reply entry of a flow to this backend from this source port.
#[inline(always)]
pub(crate) fn reply_key(backend: &BackendEntry, snat_port: WirePort) -> ReplyKey {
    ReplyKey::new(backend.address, backend.port, snat_port, backend.protocol)
}

/// The reply entry of a flow that begins with this packet.
#[inline(always)]
pub(crate) fn reply_entry(
    packet: &Packet,
    backend: &BackendEntry,
    link: &LinkSettings,
    now: Tick,
) -> ReplyEntry {
    ReplyEntry {
        client: packet.source,
        backend: backend.id,
        used: now,
        ifindex: link.ifindex,
        mac: packet.source_mac,
        client_port: packet.source_port,
        seen: 0,
        refused: 0,
        padding: [0; 2],
    }
}

/// The backend of a forward entry, if the packet may go there. `None` also if the entry is of another VIP
/// that shares the key (see [`forward_key`]).
#[inline(always)]
pub(crate) fn backend_of(entry: &ForwardEntry, packet: &Packet) -> Option<&'static BackendEntry> {
    backend(entry.backend)
        .filter(|backend| backend.takes(opens(packet.tcp_flags)) && backend.vip == packet.destination)
}

/// Finds a reply entry, and tells whether it is a pending one. If there are both, the one in `REPLIES`
/// counts, as it does for a backend's packets.
#[inline(always)]
pub(crate) fn find_reply(key: &ReplyKey) -> Option<(*mut ReplyEntry, bool)> {
    match replies().find_by_tag(key) {
        Some(reply) => Some((reply, false)),
        None => PENDING_REPLIES.get_ptr_mut(key).map(|reply| (reply, true)),
    }
}

/// Whether a reply entry is that of the flow from this client to this backend. Another flow may have taken
/// its source port, and the entry with it.
#[inline(always)]
pub(crate) fn is_reply_of(
    reply: &ReplyEntry,
    client: &Address,
    client_port: WirePort,
    backend: BackendId,
) -> bool {
    reply.client == *client && reply.client_port == client_port && reply.backend == backend
}

/// Brings the forward entry of a known flow up to date with a packet of its client. `entry` is a copy of
/// `*flow`.
#[inline(always)]
pub(crate) fn touch(
    context: *mut c_void,
    flow: *mut ForwardEntry,
    entry: &ForwardEntry,
    backend: &BackendEntry,
    packet: &Packet,
    link: &LinkSettings,
    now: Tick,
) {
    if entry.used != now {
        let seq = packet.sequence();
        let is_known = is_steady(entry.seen, packet.tcp_flags) && packet.tcp_flags & ACK != 0;
        // SAFETY: `flow` points to a value of a map, which is valid until the program returns. Only single
        // fields are written. Another CPU may write the same ones; the entry then has one of the two values,
        // and both are right.
        unsafe {
            (*flow).used = now;
            if is_known && place(entry.seq, seq) != Place::Elsewhere {
                (*flow).seq = seq;
                (*flow).ack = packet.acknowledged();
            }
        }
        if entry.snat_port != WirePort::default() && link.returns_by_routes | entry.is_routed != 0 {
            refresh_return_path(context, flow, backend, packet, link);
        }
    }
    if entry.snat_port != WirePort::default() && entry.next_hop != next_hop(link.ifindex, packet.source_mac) {
        update_next_hop(flow, backend, packet, link);
    }
}

/// Brings a reply entry up to date with a packet of its backend.
#[inline(always)]
pub(crate) fn touch_reply(reply: *mut ReplyEntry, now: Tick) {
    // SAFETY: `reply` points to a value of a map, which is valid until the program returns. One field is read
    // and written. Another CPU may write it too; the entry then has one of the two values, and both are right.
    unsafe {
        if (*reply).used != now {
            (*reply).used = now;
        }
    }
}

/// The client's packets come by another link or router than before: sends the replies there, too, unless they go
/// by the routes of this machine.
#[inline(never)]
fn update_next_hop(flow: *mut ForwardEntry, backend: &BackendEntry, packet: &Packet, link: &LinkSettings) {
    if link.returns_by_routes != 0 {
        return;
    }
    // SAFETY: `flow` and `reply` point to values of maps, which are valid until the program returns. Only
    // single fields are written; if another CPU writes them too, the next packet puts right what does not fit
    // together.
    unsafe {
        (*flow).next_hop = next_hop(link.ifindex, packet.source_mac);
        let Some((reply, _)) = find_reply(&reply_key(backend, (*flow).snat_port)) else { return };
        if is_reply_of(&*reply, &packet.source, packet.source_port, backend.id) {
            (*reply).mac = packet.source_mac;
            (*reply).ifindex = link.ifindex;
        }
    }
}

/// Brings the way of a known flow's replies up to date: to that of the routes, or, if the choice was taken back, to
/// that of the client's packets.
#[inline(never)]
fn refresh_return_path(
    context: *mut c_void,
    flow: *mut ForwardEntry,
    backend: &BackendEntry,
    packet: &Packet,
    link: &LinkSettings,
) {
    // SAFETY: `flow` and `reply` point to values of maps, which are valid until the program returns. Only single
    // fields are written; if another CPU writes them too, the next tick puts right what does not fit together.
    unsafe {
        let came_by = next_hop(link.ifindex, packet.source_mac);
        let stays = link.returns_by_routes != 0 && (*flow).next_hop == came_by;
        ((*flow).next_hop, (*flow).is_routed) = (came_by, link.returns_by_routes);
        let Some((reply, _)) = find_reply(&reply_key(backend, (*flow).snat_port)) else { return };
        if !is_reply_of(&*reply, &packet.source, packet.source_port, backend.id) {
            return;
        }
        if link.returns_by_routes != 0 && return_path::by_routes(context, packet, &mut *reply).is_yes()
            || stays
        {
            return;
        }
        (*reply).mac = packet.source_mac;
        (*reply).ifindex = link.ifindex;
    }
}
