// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Backends that refuse or do not answer new connections, and what becomes of
//! those: they cost the client one more SYN, not the connection. Mode NAT and
//! TCP only: elsewhere llb sees no answers, or none has to come.
//!
//! ```text
//!   SYN ------> backend A --RST, ICMP unreachable--> dropped; A is failing --.
//!      `------> backend A --nothing------------------------------------------+
//!                                                                            v
//!   the client's next SYN: not answered yet; A is failing, its reply entry goes
//!      `------> backend B --SYN-ACK--> the client; B is not failing (any more)
//! ```
//!
//! Where there is nobody else, or all others are failing too, the refusal reaches
//! the client at once, and a SYN that is repeated goes to A again.

use llb_common::backend::{BackendEntry, BackendId, FAILING_SECS};
use llb_common::conntrack::{RST, ReplyEntry, SYN, forward_key};
use llb_common::frontend::{DSR, FrontendEntry, FrontendKey, KNOWN_FLOWS_ONLY, TCP};
use llb_common::parse::Packet;
use llb_common::time::{Tick, elapsed_secs};

use crate::decide::Decision;
use crate::maps::{FAILING, FRONTENDS, PENDING_FLOWS, PENDING_REPLIES, backend};
use crate::ports::reply_key;
use crate::select::{self, Flow};

/// Whether new flows go elsewhere, if they can.
#[inline(always)]
pub(crate) fn is_failing(backend: BackendId, now: Tick) -> bool {
    // SAFETY: read at once.
    unsafe { FAILING.get(&backend) }.is_some_and(|failed| elapsed_secs(*failed, now) < FAILING_SECS)
}

/// A new flow goes to this backend. If it has failed before, this flow finds
/// out for the others, which go elsewhere meanwhile.
#[inline(always)]
pub(crate) fn tries(backend: BackendId, now: Tick) {
    // SAFETY: not even read.
    if unsafe { FAILING.get(&backend) }.is_some() {
        mark(backend, now);
    }
}

#[inline(always)]
fn mark(backend: BackendId, now: Tick) {
    // If there is no room, the next flow finds out by itself.
    let _ = FAILING.insert(&backend, &now, 0);
}

/// Whether a SYN that comes now is a repeated one, which its backend should
/// have answered by now: not in the tick of the first one, where it may be a copy that
/// some network has made, or a client's attempt to have good backends left out.
/// Of a backend that is failing, nothing is expected.
#[inline(always)]
pub(crate) fn is_unanswered(reply: &ReplyEntry, now: Tick) -> bool {
    reply.seen == 0 && (reply.used < now || is_failing(reply.backend, now))
}

/// The first packet from a backend to a flow, or an error about the flow's from anybody on
/// the way: whether it refuses the connection and another one may take it: 1, else 0.
#[inline(never)]
pub(crate) fn is_refusal(
    packet: &Packet,
    decision: &mut Decision,
    reply: &ReplyEntry,
    from: &BackendEntry,
) -> u32 {
    if packet.protocol != TCP {
        return 0;
    }
    if packet.tcp_flags & RST == 0 && packet.is_unreachable == 0 {
        // SAFETY: not even read.
        if packet.tcp_flags & SYN != 0 && unsafe { FAILING.get(&from.id) }.is_some() {
            let _ = FAILING.remove(&from.id);
        }
        return 0;
    }
    let key = forward_key(reply.client, reply.client_port, from.vip, from.vip_port, TCP);
    // SAFETY: read at once; in an LRU map it may be another flow's now, and is compared.
    let Some(flow) = (unsafe { PENDING_FLOWS.get(&key) }) else { return 0 };
    // What began elsewhere can't begin again.
    if flow.seen != SYN || flow.backend != from.id || flow.snat_port != packet.destination_port {
        return 0;
    }
    mark(from.id, decision.now);
    let (client, vip) = ((&reply.client, reply.client_port), (&from.vip, from.vip_port));
    decision.flow = Flow { avoid: from.id, ..Flow::new(client, vip, TCP) };
    let key = FrontendKey::new(decision.flow.vip, decision.flow.vip_port, TCP);
    // SAFETY: only read; a value that the agent replaces meanwhile stays
    // until the program ends.
    let Some(frontend) = (unsafe { FRONTENDS.get(&key) }) else { return 0 };
    u32::from(takes_moved(frontend) && select::select(decision, frontend) == select::FOUND)
}

/// The flow in `decision` was not answered: whether it is to begin anew, with
/// the backend that is then in `decision` instead: 1, else 0.
#[inline(never)]
pub(crate) fn moves(decision: &mut Decision, packet: &Packet, frontend: &FrontendEntry) -> u32 {
    let (old, now) = (decision.backend, decision.now);
    mark(old, now);
    decision.flow = Flow { avoid: old, ..Flow::of(packet) };
    if !takes_moved(frontend) || select::select(decision, frontend) == select::NOBODY {
        decision.backend = old;
        return 0;
    }
    if let Some(old) = backend(old) {
        // What it still says is the kernel's, which resets it.
        let _ = PENDING_REPLIES.remove(&reply_key(old, decision.source_port));
    }
    1
}

#[inline(always)]
fn takes_moved(frontend: &FrontendEntry) -> bool {
    frontend.flags & (KNOWN_FLOWS_ONLY | DSR) == 0 && frontend.table.slots != 0
}
