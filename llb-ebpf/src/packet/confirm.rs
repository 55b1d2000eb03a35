// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What happens to a known flow now and then: a pending flow is answered and moves to the flow tables, or a
//! client opens a connection again after the old one has ended.

use llb_common::address::WirePort;
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{self, ForwardEntry, ForwardKey, RST, opens};
use llb_common::flow_table::Inserted;
use llb_common::parse::Packet;
use llb_common::reason::Reason;
use llb_common::time::Tick;

use crate::flow::{find_reply, is_reply_of, reply_key};
use crate::flow_table::{insert_flow, insert_reply, remove_reply};
use crate::maps::{PENDING_FLOWS, PENDING_REPLIES, backend};
use crate::outcome::Done;
use crate::{counters, failing, ports};

/// What a packet finds of its pending flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
#[repr(u32)]
pub(crate) enum PendingFlow {
    /// The flow is known: the packet goes to its backend.
    GoesOn = 0,
    /// There is none, or its reply entry is gone or belongs to another flow. It must begin anew.
    Gone = 1,
    /// The client repeats its SYN, and the backend has not answered the first one.
    Unanswered = 2,
}

/// Moves a pending flow to `FLOWS` once it is answered (mode DSR: once the client sends its second packet).
#[inline(always)]
pub(crate) fn confirm(
    key: &ForwardKey,
    flow: *mut ForwardEntry,
    backend: &BackendEntry,
    packet: &Packet,
    now: Tick,
) -> PendingFlow {
    // SAFETY: `flow` points to a value of `PENDING_FLOWS`, which is valid until the program returns; one
    // field is read.
    if unsafe { (*flow).snat_port } == WirePort::default() {
        if !opens(packet.tcp_flags) {
            let _ = promote_flow(key, flow);
        }
        return PendingFlow::GoesOn;
    }
    promote(key, flow, backend, u32::from(opens(packet.tcp_flags)), now)
}

/// Moves both entries of a flow in mode NAT to their tables, if a reply was seen.
#[inline(never)]
fn promote(
    key: &ForwardKey,
    flow: *mut ForwardEntry,
    backend: &BackendEntry,
    opens: u32,
    now: Tick,
) -> PendingFlow {
    // SAFETY: `flow` points to a value of `PENDING_FLOWS`, which is valid until the program returns; one
    // field is read.
    let snat_port = unsafe { (*flow).snat_port };
    let reply_key = reply_key(backend, snat_port);
    let Some((reply, is_pending)) = find_reply(&reply_key) else { return PendingFlow::Gone };
    // SAFETY: `reply` points to a value of a map, which is valid until the program returns. Other CPUs change
    // only whole fields of it.
    let entry = unsafe { &*reply };
    if !is_reply_of(entry, &key.client, key.client_port, backend.id) {
        return PendingFlow::Gone;
    }
    if opens != 0 && is_pending && failing::is_unanswered(entry, now) {
        return PendingFlow::Unanswered;
    }
    if entry.seen == 0 || entry.seen & RST != 0 || opens != 0 {
        return PendingFlow::GoesOn;
    }
    if is_pending {
        let inserted = insert_reply(&reply_key, reply);
        if inserted != Inserted::Placed {
            count_full(inserted);
            return PendingFlow::GoesOn;
        }
    }
    let inserted = promote_flow(key, flow);
    if inserted == Inserted::Placed {
        let _ = PENDING_REPLIES.remove(&reply_key);
    } else if inserted == Inserted::Full && is_pending {
        // Not after `Again`: then another CPU handles the same flow, and may rely on this entry.
        let _ = remove_reply(&reply_key);
    }
    PendingFlow::GoesOn
}

/// A client opens a connection from a port that it used before. If the old connection has ended, as seen from
/// both ends, its reply entry is removed, so that the new connection may get another backend. Mode NAT only.
#[inline(never)]
pub(crate) fn release_ended(flow_key: &ForwardKey, flow: *mut ForwardEntry) -> Done {
    // SAFETY: `flow` points to a line of `FLOWS`, which is valid until the program returns; it is copied.
    let flow = unsafe { *flow };
    let Some(backend) = backend(flow.backend).filter(|_| flow.snat_port != WirePort::default()) else {
        return Done::No;
    };
    let key = reply_key(backend, flow.snat_port);
    let Some((reply, is_pending)) = find_reply(&key) else { return Done::Yes };
    // SAFETY: `reply` points to a value of a map, which is valid until the program returns. Other CPUs change
    // only whole fields of it.
    let reply = unsafe { &*reply };
    if !is_reply_of(reply, &flow_key.client, flow_key.client_port, flow.backend) {
        return Done::Yes;
    }
    if !conntrack::has_ended(flow.seen, reply.seen) {
        return Done::No;
    }
    let _ = ports::remove(&key, is_pending);
    Done::Yes
}

/// Moves a forward entry from `PENDING_FLOWS` to `FLOWS`, if there is room.
#[inline(always)]
fn promote_flow(key: &ForwardKey, flow: *mut ForwardEntry) -> Inserted {
    let inserted = insert_flow(key, flow);
    if inserted == Inserted::Placed {
        let _ = PENDING_FLOWS.remove(key);
    } else {
        count_full(inserted);
    }
    inserted
}

/// After [`Inserted::Again`] nothing is counted: the flow's next packet tries again.
#[inline(always)]
fn count_full(inserted: Inserted) {
    if inserted == Inserted::Full {
        counters::count_reason(Reason::FlowsFull);
    }
}
