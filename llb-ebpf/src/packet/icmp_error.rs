// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Translates ICMP errors in mode NAT. The packet inside an error is changed back to what its sender sent, so
//! that the sender recognizes it (RFC 5508, 4). Path MTU discovery depends on this.

use llb_common::checksum::Change;
use llb_common::frontend::UDP;
use llb_common::parse::Packet;

use crate::decision::Decision;
use crate::headers::{IPV4_BYTES, IPV6_BYTES, TCP_CHECKSUM, UDP_CHECKSUM, offset, store_v6, write_ip};
use crate::hooks::Hook;

/// Offset of the checksum in an ICMP header (RFC 792, RFC 4443).
const ICMP_CHECKSUM: usize = 2;

/// An error belongs to the direction in which it travels. The packet inside it travelled the other way, so
/// its source and destination are swapped.
///
/// All checksums are changed here, on both hooks: no device computes those of ICMP.
#[inline(always)]
pub(crate) fn translate<H: Hook>(hook: &H, packet: &Packet, decision: &Decision) -> Option<()> {
    let inner_l4 = offset(packet.inner_l4);
    let icmp = hook.window::<4>(offset(packet.l4))?;
    let ports = hook.window::<8>(inner_l4)?;
    let outer = Change::NONE
        .address(&packet.outer_source, &decision.source)
        .address(&packet.destination, &decision.destination);
    let addresses = Change::NONE
        .address(&packet.destination, &decision.destination)
        .address(&packet.source, &decision.source);
    let both_ports = Change::NONE
        .half(packet.source_port.wire(), decision.source_port.wire())
        .half(packet.destination_port.wire(), decision.destination_port.wire());
    let mut change = addresses.and(both_ports);

    if packet.is_v6 != 0 {
        let inner = hook.window::<IPV6_BYTES>(offset(packet.inner_l3))?;
        store_v6::<8, 16>(inner, decision.destination);
        store_v6::<24, 32>(inner, decision.source);
        // The ICMPv6 checksum also covers the outer addresses (RFC 4443, 2.3).
        change = change.and(outer);
    } else {
        let inner = hook.window::<IPV4_BYTES>(offset(packet.inner_l3))?;
        let old = inner.load_16::<10>();
        let new = addresses.apply(old);
        inner.store_16::<10>(new);
        inner.store_32::<12>(decision.destination.v4_word());
        inner.store_32::<16>(decision.source.v4_word());
        change = change.half(old, new);
    }
    ports.store_16::<0>(decision.destination_port.wire());
    ports.store_16::<2>(decision.source_port.wire());
    if packet.protocol == UDP {
        let old = ports.load_16::<UDP_CHECKSUM>();
        let new = addresses.and(both_ports).apply_udp(old);
        ports.store_16::<UDP_CHECKSUM>(new);
        change = change.half(old, new);
    } else if packet.has(inner_l4 + TCP_CHECKSUM, 2)
        && let Some(checksum) = hook.window::<2>(inner_l4 + TCP_CHECKSUM)
    {
        // Many errors quote only the first eight bytes of TCP, which do not reach to the checksum.
        let old = checksum.load_16::<0>();
        let new = addresses.and(both_ports).apply(old);
        checksum.store_16::<0>(new);
        change = change.half(old, new);
    }
    icmp.store_16::<ICMP_CHECKSUM>(change.apply(icmp.load_16::<ICMP_CHECKSUM>()));
    write_ip(hook, offset(packet.l3), packet, outer, decision)
}
