// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packets in fragments: the first one's ports are remembered for those that
//! follow. One that overtakes the first is not held back: it passes.

use llb_common::conntrack::{FragmentKey, FragmentPorts};
use llb_common::parse::Packet;

use crate::maps::FRAGMENTS;

/// Gives a later fragment the ports of its packet. 0: they are not known.
#[inline(never)]
pub(crate) fn find_ports(packet: &mut Packet) -> u32 {
    // SAFETY: read at once; a value of another packet in the same place would
    // be a wrong port, which its receiver's checksum finds.
    let Some(ports) = (unsafe { FRAGMENTS.get(&key_of(packet)) }) else { return 0 };
    (packet.source_port, packet.destination_port) = (ports.source, ports.destination);
    1
}

/// Remembers those of a first fragment.
#[inline(never)]
pub(crate) fn remember_ports(packet: &Packet) {
    let ports = FragmentPorts { source: packet.source_port, destination: packet.destination_port };
    // If there is no room, its other fragments pass.
    let _ = FRAGMENTS.insert(&key_of(packet), &ports, 0);
}

#[inline(always)]
fn key_of(packet: &Packet) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.fragment_id,
        protocol: packet.protocol,
        padding: [0; 3],
    }
}
