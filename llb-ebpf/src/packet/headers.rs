// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Writes an IP header, and says where the fields of headers are.

use llb_common::address::Address;
use llb_common::checksum::Change;
use llb_common::frontend::DSR_TIME_TO_LIVE;
use llb_common::parse::Packet;

use crate::decision::Decision;
use crate::hooks::Hook;
use crate::window::Window;

/// Larger than every offset that the parser gives. Tells the verifier so.
const MAX_OFFSET: u16 = 0x7ff;

/// Bytes of an IPv4 header without options (RFC 791, 3.1).
pub(crate) const IPV4_BYTES: usize = 20;
/// Bytes of the fixed IPv6 header (RFC 8200, 3).
pub(crate) const IPV6_BYTES: usize = 40;

/// Offset of the checksum in a TCP header (RFC 9293, 3.1).
pub(crate) const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub(crate) const UDP_CHECKSUM: usize = 6;

/// Writes the IP header: the addresses, a time to live that is one less, and the checksum that IPv4 has.
#[inline(always)]
pub(crate) fn write_ip<H: Hook>(
    hook: &H,
    l3: usize,
    packet: &Packet,
    addresses: Change,
    decision: &Decision,
) -> Option<()> {
    if packet.is_v6 != 0 {
        let header = hook.window::<IPV6_BYTES>(l3)?;
        let [next, hop_limit] = header.load_16::<6>().to_ne_bytes();
        header.store_16::<6>(u16::from_ne_bytes([next, hop_limit.wrapping_sub(1)]));
        store_v6::<8, 16>(header, decision.source);
        store_v6::<24, 32>(header, decision.destination);
    } else {
        let header = hook.window::<IPV4_BYTES>(l3)?;
        let old = header.load_16::<8>();
        let [time_to_live, protocol] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([time_to_live.wrapping_sub(1), protocol]);
        let checksum = addresses.half(old, new).apply(header.load_16::<10>());
        header.store_16::<8>(new);
        header.store_16::<10>(checksum);
        header.store_32::<12>(decision.source.v4_word());
        header.store_32::<16>(decision.destination.v4_word());
    }
    Some(())
}

/// Lowers the time to live to [`DSR_TIME_TO_LIVE`].
#[inline(always)]
pub(crate) fn limit_time_to_live<H: Hook>(hook: &H, l3: usize, packet: &Packet) -> Option<()> {
    if packet.is_v6 != 0 {
        let header = hook.window::<IPV6_BYTES>(l3)?;
        let [next, _] = header.load_16::<6>().to_ne_bytes();
        header.store_16::<6>(u16::from_ne_bytes([next, DSR_TIME_TO_LIVE]));
    } else {
        let header = hook.window::<IPV4_BYTES>(l3)?;
        let old = header.load_16::<8>();
        let [_, protocol] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([DSR_TIME_TO_LIVE, protocol]);
        header.store_16::<8>(new);
        header.store_16::<10>(Change::NONE.half(old, new).apply(header.load_16::<10>()));
    }
    Some(())
}

/// Stores an IPv6 address: its first eight bytes at offset `HIGH`, the others at `LOW`.
#[inline(always)]
pub(crate) fn store_v6<const HIGH: usize, const LOW: usize>(header: Window, address: Address) {
    let [high, low] = address.words();
    header.store_64::<HIGH>(high);
    header.store_64::<LOW>(low);
}

/// An offset from the parser, with a bound that the verifier can see.
#[inline(always)]
pub(crate) fn offset(offset: u16) -> usize {
    usize::from(offset & MAX_OFFSET)
}
