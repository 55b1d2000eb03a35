// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packets in fragments: only the first fragment has the ports, so they are remembered for the later ones. A
//! fragment that overtakes the first one is not held back: it passes to the kernel.

use llb_common::conntrack::{FragmentKey, FragmentPorts};
use llb_common::parse::Packet;

use crate::maps::FRAGMENTS;
use crate::outcome::Done;

/// Gives a later fragment the ports of its packet, if they are known.
#[inline(never)]
pub(crate) fn find_ports(packet: &mut Packet) -> Done {
    // SAFETY: the value is read at once. In an LRU map it may belong to another packet meanwhile; the ports
    // are then wrong, and the receiver's checksum finds that.
    let Some(ports) = (unsafe { FRAGMENTS.get(&fragment_key(packet)) }) else { return Done::No };
    (packet.source_port, packet.destination_port) = (ports.source, ports.destination);
    Done::Yes
}

/// Remembers the ports of a first fragment.
#[inline(never)]
pub(crate) fn remember_ports(packet: &Packet) {
    let ports = FragmentPorts { source: packet.source_port, destination: packet.destination_port };
    // If there is no room, the later fragments pass to the kernel.
    let _ = FRAGMENTS.insert(&fragment_key(packet), &ports, 0);
}

/// The key that all fragments of a packet share.
#[inline(always)]
fn fragment_key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.fragment_id,
        protocol: packet.protocol,
        padding: [0; 3],
    }
}
