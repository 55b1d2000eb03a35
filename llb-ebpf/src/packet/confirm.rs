// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What happens to a known flow now and then: a pending one is answered and
//! gets its place, a client comes by another way.

use llb_common::address::Port;
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{self, ForwardEntry, ForwardKey, RST, ReplyEntry, ReplyKey, opens, way};
use llb_common::flow_table::Inserted;
use llb_common::parse::Packet;
use llb_common::reason::Reason;
use llb_common::settings::LinkSettings;
use llb_common::time::Tick;

use crate::flow_table::{insert_flow, insert_reply, remove_reply, replies};
use crate::maps::{PENDING_FLOWS, PENDING_REPLIES, backend};
use crate::ports::{is_same_flow, reply_entry, reply_key};
use crate::{counters, failing};

/// What [`confirm`] says: the flow goes on.
pub(crate) const GOES_ON: u32 = 0;
/// Its reply entry is gone, or another flow's, so it must begin anew.
pub(crate) const GONE: u32 = 1;
/// Its client asks again, and its backend has said nothing.
pub(crate) const UNANSWERED: u32 = 2;

/// Gives a pending flow its place if it is answered (DSR: if it goes on).
#[inline(always)]
pub(crate) fn confirm(
    key: &ForwardKey,
    flow: *mut ForwardEntry,
    backend: &BackendEntry,
    packet: &Packet,
    now: Tick,
) -> u32 {
    // SAFETY: memory that stays while the program runs.
    if unsafe { (*flow).snat_port } == Port::default() {
        if !opens(packet.tcp_flags) {
            promote_flow(key, flow);
        }
        return GOES_ON;
    }
    promote(key, flow, backend, u32::from(opens(packet.tcp_flags)), now)
}

/// Both entries.
#[inline(never)]
fn promote(key: &ForwardKey, flow: *mut ForwardEntry, backend: &BackendEntry, opens: u32, now: Tick) -> u32 {
    // SAFETY: memory that stays while the program runs.
    let snat_port = unsafe { (*flow).snat_port };
    let reply_key = reply_key(backend, snat_port);
    let Some((reply, is_pending)) = find_reply(&reply_key) else { return GONE };
    // SAFETY: as above.
    let copy = unsafe { &*reply };
    if copy.client != key.client || copy.client_port != key.client_port || copy.backend != backend.id {
        return GONE;
    }
    if opens != 0 && is_pending && failing::is_unanswered(copy, now) {
        return UNANSWERED;
    }
    if copy.seen == 0 || copy.seen & RST != 0 || opens != 0 {
        return GOES_ON;
    }
    if is_pending {
        let inserted = insert_reply(&reply_key, reply);
        if inserted != PLACED {
            count_full(inserted);
            return GOES_ON;
        }
    }
    let inserted = promote_flow(key, flow);
    if inserted == PLACED {
        let _ = PENDING_REPLIES.remove(&reply_key);
    } else if inserted == FULL && is_pending {
        // Not if another CPU does the same at the same time: it may have made it.
        remove_reply(&reply_key);
    }
    GOES_ON
}

/// A client opens a connection from a port that it has used before: whether
/// that one has ended, as seen from both ends (mode NAT): 1, else 0. Then its reply
/// entry is gone, and the new one may get another backend.
#[inline(never)]
pub(crate) fn has_ended(flow_key: &ForwardKey, flow: *mut ForwardEntry) -> u32 {
    // SAFETY: memory that stays while the program runs; a copy.
    let flow = unsafe { *flow };
    let Some(backend) = backend(flow.backend).filter(|_| flow.snat_port != Port::default()) else { return 0 };
    let key = reply_key(backend, flow.snat_port);
    let Some((reply, is_pending)) = find_reply(&key) else { return 1 };
    // SAFETY: as above; single fields.
    let reply = unsafe { &*reply };
    if reply.client != flow_key.client
        || reply.client_port != flow_key.client_port
        || reply.backend != flow.backend
    {
        return 1;
    }
    if !conntrack::has_ended(flow.seen, reply.seen) {
        return 0;
    }
    if is_pending {
        let _ = PENDING_REPLIES.remove(&key);
    } else {
        remove_reply(&key);
    }
    1
}

#[inline(always)]
fn promote_flow(key: &ForwardKey, flow: *mut ForwardEntry) -> u32 {
    let inserted = insert_flow(key, flow);
    if inserted == PLACED {
        let _ = PENDING_FLOWS.remove(key);
    } else {
        count_full(inserted);
    }
    inserted
}

const PLACED: u32 = Inserted::Placed as u32;
const FULL: u32 = Inserted::Full as u32;

/// A flow that another CPU came in the way of gets its place with its next packet.
#[inline(always)]
fn count_full(inserted: u32) {
    if inserted == FULL {
        counters::count_reason(Reason::FlowsFull);
    }
}

/// Sends the replies the way that the client's packets come now.
#[inline(never)]
pub(crate) fn turn(flow: *mut ForwardEntry, backend: &BackendEntry, packet: &Packet, link: &LinkSettings) {
    // SAFETY: single fields of memory that stays while the program runs.
    unsafe {
        (*flow).way = way(link.ifindex, packet.source_mac);
        let Some((reply, _)) = find_reply(&reply_key(backend, (*flow).snat_port)) else { return };
        // A pending flow may have lost its entry, and the port with it.
        if is_same_flow(&*reply, &reply_entry(packet, backend, link, 0)) {
            (*reply).mac = packet.source_mac;
            (*reply).ifindex = link.ifindex;
        }
    }
}

/// The entry, and whether it is a pending one. Where there are both, the one that replies
/// find, too.
#[inline(always)]
pub(crate) fn find_reply(key: &ReplyKey) -> Option<(*mut ReplyEntry, bool)> {
    match replies().find_by_tag(key) {
        Some(reply) => Some((reply, false)),
        None => PENDING_REPLIES.get_ptr_mut(key).map(|reply| (reply, true)),
    }
}
