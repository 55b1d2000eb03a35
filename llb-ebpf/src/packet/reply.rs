// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! A backend's packet to one of llb's source addresses: which client it is for.

use llb_common::address::Mac;
use llb_common::conntrack::ReplyKey;
use llb_common::parse::{Packet, Shape};
use llb_common::reason::Reason;
use llb_common::settings::LinkSettings;

use crate::decision::{Decision, Stop};
use crate::flow::touch_reply;
use crate::flow_table::replies;
use crate::maps::{LINKS, PENDING_REPLIES, SETTINGS, backend};
use crate::{life, refusal, reselect};

/// Fills `decision` for a backend's packet.
#[inline(always)]
pub(crate) fn decide(packet: &Packet, decision: &mut Decision, link: &LinkSettings) -> Result<(), Stop> {
    let settings = SETTINGS.get(0).ok_or(Stop::NotOurs)?;
    // This check saves the look-ups for packets to other addresses.
    if !settings.snat.contains(&packet.destination) {
        return Err(Stop::NotOurs);
    }
    let key = ReplyKey::new(packet.source, packet.source_port, packet.destination_port, packet.protocol);
    let reply = replies().find(&key).or_else(|| PENDING_REPLIES.get_ptr_mut(&key)).ok_or(Stop::NotOurs)?;
    // SAFETY: `reply` points to a value of a map, which is valid until the program returns. Other CPUs change
    // only its time, its life cycle and its next hop, each as a whole field.
    let entry = unsafe { &*reply };
    let backend = backend(entry.backend).ok_or(Reason::StaleReply)?;
    if backend.snat != packet.destination {
        return Err(Stop::NotOurs);
    }
    if entry.seen == 0 && refusal::is_false(packet, entry, backend).is_yes() {
        return Err(Reason::FalseRefusal.into());
    }
    if entry.seen == 0 && reselect::absorb_refusal(packet, decision, reply, backend).is_yes() {
        return Err(Reason::Refused.into());
    }
    if packet.shape != Shape::Error as u8 {
        touch_reply(reply, decision.now);
        life::follow_reply(reply, backend, packet);
    }
    decision.source = backend.vip.copied();
    decision.destination = entry.client.copied();
    decision.backend = backend.id;
    decision.ifindex = entry.ifindex;
    decision.source_port = backend.vip_port;
    decision.destination_port = entry.client_port;
    decision.destination_mac = entry.mac.copied();
    decision.source_mac = mac_of(entry.ifindex, link)?;
    decision.is_nat = 1;
    Ok(())
}

/// The MAC address of one of our links. `link` is the one that the packet came by.
#[inline(always)]
fn mac_of(ifindex: u32, link: &LinkSettings) -> Result<Mac, Reason> {
    if ifindex == link.ifindex {
        return Ok(link.mac.copied());
    }
    // SAFETY: the value is only read. If the agent replaces it meanwhile, the kernel keeps the old one until
    // the program returns.
    match unsafe { LINKS.get(&ifindex) } {
        Some((mac, _)) => Ok(mac.copied()),
        None => Err(Reason::NoNeighbour),
    }
}
