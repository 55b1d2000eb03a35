// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! A backend's packet to one of llb's source addresses: which client it is for.

use llb_common::conntrack::ReplyKey;
use llb_common::parse::{Packet, Shape};
use llb_common::reason::Reason;
use llb_common::settings::LinkSettings;

use crate::decide::{Decision, Stop, own_mac};
use crate::failing;
use crate::flow_table::replies;
use crate::forward::seen_after;
use crate::maps::{PENDING_REPLIES, SETTINGS, backend};

#[inline(always)]
pub(crate) fn decide(packet: &Packet, decision: &mut Decision, link: &LinkSettings) -> Result<(), Stop> {
    let settings = SETTINGS.get(0).ok_or(Stop::NotOurs)?;
    // Spares the host's other packets the look-ups.
    if !settings.snat.contains(&packet.destination) {
        return Err(Stop::NotOurs);
    }
    let key = ReplyKey::new(packet.source, packet.source_port, packet.destination_port, packet.protocol);
    let reply = replies().find(&key).or_else(|| PENDING_REPLIES.get_ptr_mut(&key)).ok_or(Stop::NotOurs)?;
    // SAFETY: memory that stays while the program runs; of what is read, only
    // time and life cycle are written by others.
    let entry = unsafe { &*reply };
    let backend = backend(entry.backend).ok_or(Reason::StaleReply)?;
    if backend.snat != packet.destination {
        return Err(Stop::NotOurs);
    }
    if entry.seen == 0 && failing::is_refusal(packet, decision, entry, backend) != 0 {
        return Err(Reason::Refused.into());
    }
    if packet.shape != Shape::Error as u8 {
        let (now, seen) = (decision.now, seen_after(entry.seen, packet));
        // SAFETY: single fields; another CPU may write the same ones.
        unsafe {
            if entry.used != now {
                (*reply).used = now;
            }
            if entry.seen != seen {
                (*reply).seen = seen;
            }
        }
    }
    decision.source = backend.vip.copied();
    decision.destination = entry.client.copied();
    decision.backend = backend.id;
    decision.ifindex = entry.ifindex;
    decision.source_port = backend.vip_port;
    decision.destination_port = entry.client_port;
    decision.destination_mac = entry.mac.copied();
    decision.source_mac = own_mac(entry.ifindex, link)?;
    decision.is_nat = 1;
    Ok(())
}
