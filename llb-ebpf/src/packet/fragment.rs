// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packets in fragments. Only the first fragment has the ports, so they are remembered for the later ones. A later
//! fragment may come before the first one. It passes to the kernel, to which the packet may belong, and the agent gets
//! a copy, which it sends once the first one was forwarded.
//!
//! ```text
//!   FRAGMENTS    first fragment                       later fragment
//!   nothing      ports, or NOT_FORWARDED              EARLY, and a copy to the agent
//!   EARLY        the same; if forwarded, a release    a copy to the agent
//!   ports, ...   the same                             forwarded by the ports; passed on if NOT_FORWARDED
//! ```

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use llb_common::conntrack::{FragmentKey, FragmentPorts};
use llb_common::parse::Packet;

use crate::decision::Decision;
use crate::early;
use crate::hooks::Hook;
use crate::maps::{FRAGMENTS, SETTINGS, VIPS};
use crate::outcome::Done;
use crate::window::hide;

/// What is known about the ports of a later fragment.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use = "without ports, a packet has no flow"]
#[repr(u32)]
pub(crate) enum Ports {
    /// They are in the packet now.
    Known = 0,
    /// Nothing.
    Unknown = 1,
    /// The first fragment is still to come, and the agent has a copy of this one.
    Early = 2,
}

/// Gives a later fragment the ports of its packet, if they are known.
#[inline(never)]
pub(crate) fn find_ports<H: Hook>(context: *mut c_void, packet: &mut Packet) -> Ports {
    let key = packet.fragment_key();
    let mut found = remembered(&key);
    let is_early = matches!(found, FragmentPorts::ABSENT | FragmentPorts::EARLY);
    if is_early && !(is_ours(packet) && early::has_room::<H>(context, packet)) {
        return Ports::Unknown;
    }
    if found == FragmentPorts::ABSENT
        && FRAGMENTS.insert(&key, &FragmentPorts::EARLY, BPF_NOEXIST.into()).is_err()
    {
        // Another CPU has just had a fragment of the same packet.
        found = remembered(&key);
    }
    match found {
        FragmentPorts::NOT_FORWARDED => Ports::Unknown,
        FragmentPorts::EARLY | FragmentPorts::ABSENT => {
            if early::give::<H>(context, packet).is_yes() {
                Ports::Early
            } else {
                Ports::Unknown
            }
        }
        ports => {
            (packet.source_port, packet.destination_port) = (ports.source, ports.destination);
            Ports::Known
        }
    }
}

/// Remembers a first fragment: its ports if it is forwarded, else that it is not. If others of its packet came before it,
/// the agent may send them now.
#[inline(never)]
pub(crate) fn remember(packet: &Packet, decision: &Decision, is_forwarded: Done) {
    let ports = if is_forwarded.is_yes() {
        FragmentPorts { source: packet.source_port, destination: packet.destination_port }
    } else if is_ours(packet) {
        FragmentPorts::NOT_FORWARDED
    } else {
        return;
    };
    let key = packet.fragment_key();
    // If there is no room, the later fragments pass to the kernel.
    if FRAGMENTS.insert(&key, &ports, BPF_NOEXIST.into()).is_ok() {
        return;
    }
    let before = remembered(&key);
    let _ = FRAGMENTS.insert(&key, &ports, BPF_ANY.into());
    if is_forwarded.is_yes() && before == FragmentPorts::EARLY {
        early::release(&key, decision);
    }
}

/// Whether some packets to this address are forwarded.
#[inline(always)]
fn is_ours(packet: &Packet) -> bool {
    let is_source = SETTINGS.get(0).is_some_and(|settings| settings.snat.contains(&packet.destination));
    // SAFETY: the value is not read.
    let is_vip = unsafe { VIPS.get(&packet.destination) }.is_some();
    hide(is_source.into()) | hide(is_vip.into()) != 0
}

#[inline(always)]
fn remembered(key: &FragmentKey) -> FragmentPorts {
    // SAFETY: the value is read at once. In an LRU map it may belong to another packet meanwhile; the ports
    // are then wrong, and the receiver's checksum finds that.
    match unsafe { FRAGMENTS.get(key) } {
        Some(ports) => *ports,
        None => FragmentPorts::ABSENT,
    }
}
