// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Gives a new connection another backend when the first one refuses it or does not answer. The client loses
//! one SYN, not the connection. TCP in mode NAT only: in mode DSR llb does not see the answers, and UDP need
//! not be answered.
//!
//! ```text
//!   SYN ------> backend A --RST, ICMP unreachable--> dropped; A is suspected --.
//!      `------> backend A --nothing--------------------------------------------+
//!                                                                              v
//!   the client's next SYN: not answered yet; A is suspected, its reply entry goes
//!      `------> backend B --SYN-ACK--> the client; B is not suspected (any more)
//! ```
//!
//! Only this connection moves. Others still go to A, until it has refused two in a row, or the agent's tests have
//! found it dead (`failing.rs`). If there is no other backend, or all others refuse too, the client gets the
//! refusal at once. If all others are dead, a repeated SYN goes to A again, unless A is dead too.

use llb_common::backend::{BackendEntry, BackendId, FailureKind};
use llb_common::conntrack::{RST, ReplyEntry, SYN, forward_key, opens};
use llb_common::frontend::{DSR, FrontendEntry, FrontendKey, KNOWN_FLOWS_ONLY, TCP};
use llb_common::parse::Packet;
use llb_common::time::Tick;

use crate::decision::{AVOIDS_FAILING, AVOIDS_REFUSING, AVOIDS_SUSPECTED, Decision, UnassignedFlow};
use crate::failing;
use crate::flow::reply_key;
use crate::maps::{FRONTENDS, PENDING_FLOWS, PENDING_REPLIES, backend};
use crate::outcome::Done;
use crate::select::{self, Selection};

/// Looks at the first packet of a backend to a flow, or at an ICMP error about the flow. If it refuses the
/// connection and another backend may take that, the refusal must be dropped: the client's next SYN goes to
/// the other backend.
#[inline(never)]
pub(crate) fn absorb_refusal(
    packet: &Packet,
    decision: &mut Decision,
    reply: *mut ReplyEntry,
    from: &BackendEntry,
) -> Done {
    if packet.protocol != TCP {
        return Done::No;
    }
    if packet.tcp_flags & RST == 0 && packet.is_unreachable == 0 {
        if packet.tcp_flags & SYN != 0 {
            failing::clear(&from.id);
        }
        return Done::No;
    }
    // SAFETY: `reply` points to a value of a map, which is valid until the program returns. Other CPUs change
    // only whole fields of it; the fields that are copied here never change.
    let (client, client_port, refused) = unsafe { ((*reply).client, (*reply).client_port, (*reply).refused) };
    let key = forward_key(client, client_port, from.vip, from.vip_port, TCP);
    // SAFETY: the value is only read. In an LRU map it may belong to another flow meanwhile, so what is read
    // is compared with what it must be.
    let Some(flow) = (unsafe { PENDING_FLOWS.get(&key) }) else { return Done::No };
    // A connection that began before this box saw it can't begin anew.
    if flow.seen != SYN || flow.backend != from.id || flow.snat_port != packet.destination_port {
        return Done::No;
    }
    // Each connection counts once, however often the backend refuses it.
    if refused == 0 {
        failing::suspect(from.id, FailureKind::Refused, decision.now);
        // SAFETY: as above. Whichever CPU writes this field, it writes the same value.
        unsafe { (*reply).refused = 1 };
    }
    let (client, vip) = ((&client, client_port), (&from.vip, from.vip_port));
    decision.flow = UnassignedFlow {
        excluded: from.id,
        avoids: AVOIDS_REFUSING,
        ..UnassignedFlow::new(client, vip, TCP)
    };
    let key = FrontendKey::new(decision.flow.vip, decision.flow.vip_port, TCP);
    // SAFETY: the value is only read. If the agent replaces it meanwhile, the kernel keeps the old one until
    // the program returns.
    let Some(frontend) = (unsafe { FRONTENDS.get(&key) }) else { return Done::No };
    Done::from(
        begins_in_dsr(frontend)
            || may_take_over(frontend) && select::select(decision, frontend) == Selection::Found,
    )
}

/// The backend in `decision` has not answered the flow of `packet`. Puts another one in its place, if there
/// is one: the flow must then begin anew.
#[inline(never)]
pub(crate) fn replace_backend(decision: &mut Decision, packet: &Packet, frontend: &FrontendEntry) -> Done {
    let (old, now) = (decision.backend, decision.now);
    failing::suspect(old, FailureKind::Unanswered, now);
    decision.flow = UnassignedFlow { excluded: old, avoids: AVOIDS_SUSPECTED, ..UnassignedFlow::of(packet) };
    if begins_in_dsr(frontend) {
        decision.backend = BackendId(0);
    } else if !may_take_over(frontend)
        || select::select(decision, frontend) == Selection::Nobody
        || is_worse(decision.backend, old, now)
    {
        decision.backend = old;
        return Done::No;
    }
    if let Some(old) = backend(old) {
        // If the old backend answers after all, its packets pass to the kernel, which resets that connection.
        let _ = PENDING_REPLIES.remove(&reply_key(old, decision.source_port));
    }
    Done::Yes
}

/// Whether a flow should rather stay with the backend that did not answer one SYN: the other one is dead.
#[inline(always)]
fn is_worse(other: BackendId, old: BackendId, now: Tick) -> bool {
    failing::is_avoided(other, AVOIDS_FAILING, now) && !failing::is_avoided(old, AVOIDS_FAILING, now)
}

/// The backend in `decision` has no source port left for the flow of `packet`. Puts another one in its place, if
/// there is one. A connection that began before this box saw it can't move: another backend would reset it.
#[inline(never)]
pub(crate) fn leave_full_backend(decision: &mut Decision, packet: &Packet, frontend: &FrontendEntry) -> Done {
    if packet.protocol == TCP && !opens(packet.tcp_flags) {
        return Done::No;
    }
    decision.flow = UnassignedFlow { excluded: decision.backend, ..UnassignedFlow::of(packet) };
    Done::from(select::select(decision, frontend) != Selection::Nobody)
}

/// Whether new flows of this frontend begin in mode DSR. A flow in mode NAT that has no answer yet is there
/// because a Node had no rule for the VIP. The Node may have one by now, so the client's next SYN tries again.
#[inline(always)]
fn begins_in_dsr(frontend: &FrontendEntry) -> bool {
    frontend.flags & (KNOWN_FLOWS_ONLY | DSR) == DSR
}

/// Whether other backends of this frontend may take a new connection over.
#[inline(always)]
fn may_take_over(frontend: &FrontendEntry) -> bool {
    frontend.flags & (KNOWN_FLOWS_ONLY | DSR) == 0 && frontend.table.slots != 0
}
