// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! ICMP errors in mode NAT: the packet inside is turned back into what its
//! sender has sent, so that the sender recognizes it (RFC 5508, 4; path MTU
//! discovery depends on it).

use llb_common::checksum::Change;
use llb_common::frontend::UDP;
use llb_common::parse::Packet;

use crate::decide::Decision;
use crate::hooks::Hook;
use crate::rewrite::{IPV4_BYTES, IPV6_BYTES, TCP_CHECKSUM, UDP_CHECKSUM, network, offset, store_v6};

/// Offset of the checksum in an ICMP header.
const ICMP_CHECKSUM: usize = 2;

/// An error belongs to the flow in the direction that it travels, so the
/// packet inside has source and destination the other way round.
///
/// All by hand on both hooks: no device computes ICMP checksums.
#[inline(always)]
pub(crate) fn translate<H: Hook>(hook: &H, packet: &Packet, decision: &Decision) -> Option<()> {
    let inner_l4 = offset(packet.inner_l4);
    let icmp = hook.window::<4>(offset(packet.l4))?;
    let ports = hook.window::<8>(inner_l4)?;
    let outer = Change::NONE
        .address(packet.outer_source, decision.source)
        .address(packet.destination, decision.destination);
    let addresses = Change::NONE
        .address(packet.destination, decision.destination)
        .address(packet.source, decision.source);
    let both_ports = Change::NONE
        .half(packet.source_port.wire(), decision.source_port.wire())
        .half(packet.destination_port.wire(), decision.destination_port.wire());
    let mut change = addresses.and(both_ports);

    if packet.is_v6 != 0 {
        let inner = hook.window::<IPV6_BYTES>(offset(packet.inner_l3))?;
        store_v6::<8, 16>(inner, decision.destination);
        store_v6::<24, 32>(inner, decision.source);
        // Its checksum covers the addresses outside too (RFC 4443, 2.3).
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
        // Only where the error has that much of its packet.
        let old = checksum.load_16::<0>();
        let new = addresses.and(both_ports).apply(old);
        checksum.store_16::<0>(new);
        change = change.half(old, new);
    }
    icmp.store_16::<ICMP_CHECKSUM>(change.apply(icmp.load_16::<ICMP_CHECKSUM>()));
    network(hook, offset(packet.l3), packet, outer, decision)
}
