// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Whether a refusal of a new connection is genuine: whoever refuses it has seen its SYN. What follows from a
//! genuine one is in `reselect.rs`.

use llb_common::backend::BackendEntry;
use llb_common::conntrack::{RST, ReplyEntry, SYN, forward_key};
use llb_common::frontend::TCP;
use llb_common::parse::Packet;

use crate::maps::PENDING_FLOWS;
use crate::outcome::Done;

/// A SYN may carry data (RFC 7413), which a reset acknowledges too. No SYN is longer than this.
const MOST_IN_SYN: u32 = 65_536;

/// Whether the first packet to a flow from its backend, or an ICMP error about the flow, claims to refuse a
/// connection whose SYN it does not know. A reset must acknowledge the SYN (RFC 9293, 3.10.7.3), an ICMP error
/// must quote it (RFC 5927, 4.1).
#[inline(never)]
pub(crate) fn is_false(packet: &Packet, reply: &ReplyEntry, from: &BackendEntry) -> Done {
    let is_reset = packet.tcp_flags & RST != 0;
    if packet.protocol != TCP || !is_reset && packet.is_unreachable == 0 {
        return Done::No;
    }
    let key = forward_key(reply.client, reply.client_port, from.vip, from.vip_port, TCP);
    // SAFETY: the value is only read. In an LRU map it may belong to another flow meanwhile, so what is read
    // is compared with what it must be.
    let Some(flow) = (unsafe { PENDING_FLOWS.get(&key) }) else { return Done::No };
    // Only of an opening is it known what answers it.
    if flow.seen != SYN || flow.backend != from.id || flow.snat_port != packet.destination_port {
        return Done::No;
    }
    Done::from(if is_reset {
        let acknowledged = packet.acknowledged().wrapping_sub(flow.seq);
        acknowledged == 0 || acknowledged > MOST_IN_SYN
    } else {
        packet.sequence() != flow.seq
    })
}
