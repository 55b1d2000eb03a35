// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Reads IP headers of both families into one form.

use super::frame::Frame;
use super::packet::Unparsed;
use crate::address::Address;

pub(super) const IPV4_BYTES: usize = 20;
pub(super) const IPV6_BYTES: usize = 40;

/// Extension headers that are looked through. RFC 8200, 4.1 lists six kinds; more than three in one packet
/// are not seen in practice.
const MAX_EXTENSION_HEADERS: usize = 4;
/// A packet with more bytes of IP headers is not looked through.
const MAX_HEADER_BYTES: usize = 512;

/// Protocol numbers of IPv6 extension headers (IANA).
pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const AUTHENTICATION: u8 = 51;
pub(super) const DESTINATION_OPTIONS: u8 = 60;

/// Which part of a packet it is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fragment {
    /// The packet is not fragmented.
    #[default]
    None,
    First,
    Later,
}

/// What an IP header says.
#[derive(Default)]
pub(super) struct Header {
    pub(super) source: Address,
    pub(super) destination: Address,
    /// Of the header at `l4`.
    pub(super) protocol: u8,
    pub(super) time_to_live: u8,
    pub(super) fragment: Fragment,
    /// In network order.
    pub(super) fragment_id: u32,
    /// Bytes of the IP packet, this header included.
    pub(super) length: u16,
    /// Offset of the first header behind this one and its extension headers.
    pub(super) l4: usize,
}

/// Reads the IP header at `l3` into `header`. `PLAIN`: gives up on options, extension headers and fragments.
///
/// The header is not returned: it would share its memory with an error, so in eBPF the compiler would store an
/// address byte by byte, and whoever reads it as a word would wait until all bytes are written.
#[inline(always)]
pub(super) fn read<const PLAIN: bool>(
    frame: &(impl Frame + ?Sized),
    l3: usize,
    is_v6: bool,
    header: &mut Header,
) -> Result<(), Unparsed> {
    if is_v6 { ipv6::<PLAIN>(frame, l3, header) } else { ipv4::<PLAIN>(frame, l3, header) }
}

/// Reads an IPv4 header (RFC 791, 3.1). Options are skipped.
#[inline(always)]
fn ipv4<const PLAIN: bool>(
    frame: &(impl Frame + ?Sized),
    l3: usize,
    header: &mut Header,
) -> Result<(), Unparsed> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const FRAGMENT_OFFSET: u16 = 0x1fff;
    let [first, second] = frame.words::<2>(l3).ok_or(Unparsed::Truncated)?;
    let destination = frame.word(l3 + 16).ok_or(Unparsed::Truncated)?;
    let [version, _, l0, l1, i0, i1, f0, f1] = first.to_ne_bytes();
    let [time_to_live, protocol, ..] = second.to_ne_bytes();
    let header_bytes = usize::from(version & 0xf) * 4;
    if version >> 4 != 4 || header_bytes < IPV4_BYTES {
        return Err(Unparsed::Other);
    }
    let flags = u16::from_be_bytes([f0, f1]);
    if PLAIN && (header_bytes != IPV4_BYTES || flags & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0) {
        return Err(Unparsed::NotPlain);
    }
    let fragment = match (flags & FRAGMENT_OFFSET, flags & MORE_FRAGMENTS) {
        (0, 0) => Fragment::None,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    *header = Header {
        source: Address::from_v4_word(last_half(second)),
        destination: Address::from_v4_word(destination),
        protocol,
        time_to_live,
        fragment,
        fragment_id: u32::from(u16::from_ne_bytes([i0, i1])),
        length: u16::from_be_bytes([l0, l1]),
        l4: l3 + if PLAIN { IPV4_BYTES } else { header_bytes },
    };
    Ok(())
}

/// The last four of eight bytes, in the order of memory.
#[inline(always)]
const fn last_half(word: u64) -> u32 {
    (if cfg!(target_endian = "little") { word >> 32 } else { word }) as u32
}

/// Reads an IPv6 header and its extension headers (RFC 8200, 3 and 4).
#[inline(always)]
fn ipv6<const PLAIN: bool>(
    frame: &(impl Frame + ?Sized),
    l3: usize,
    header: &mut Header,
) -> Result<(), Unparsed> {
    let [first, s0, s1, d0, d1] = frame.words::<5>(l3).ok_or(Unparsed::Truncated)?;
    let [version, _, _, _, l0, l1, mut next, time_to_live] = first.to_ne_bytes();
    if version >> 4 != 6 {
        return Err(Unparsed::Other);
    }
    let (source, destination) = (Address::from_words([s0, s1]), Address::from_words([d0, d1]));
    // An IPv4-mapped address must not be in a packet (RFC 4291, 2.5.5.2), and would be taken for an IPv4
    // address.
    if source.is_v4() || destination.is_v4() {
        return Err(Unparsed::Other);
    }
    let mut l4 = l3 + IPV6_BYTES;
    let (mut fragment, mut fragment_id) = (Fragment::None, 0);
    for _ in 0..if PLAIN { 0 } else { MAX_EXTENSION_HEADERS } {
        // Bytes of the header beyond its first eight.
        let more = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT => {
                let [header] = frame.words::<1>(l4).ok_or(Unparsed::Truncated)?;
                let [following, length, b2, b3, i0, i1, i2, i3] = header.to_ne_bytes();
                let kind = next;
                next = following;
                match kind {
                    // The packet has not passed all routers of its route, so its destination is not the final
                    // one.
                    ROUTING if b3 != 0 => return Err(Unparsed::Other),
                    FRAGMENT => {
                        let field = u16::from_be_bytes([b2, b3]);
                        fragment_id = u32::from_ne_bytes([i0, i1, i2, i3]);
                        if field >> 3 != 0 {
                            fragment = Fragment::Later;
                        } else if field & 1 != 0 {
                            fragment = Fragment::First;
                        }
                        0
                    }
                    // The field counts words of four bytes, less two (RFC 4302, 2.2).
                    AUTHENTICATION => usize::from(length) * 4,
                    _ => usize::from(length) * 8,
                }
            }
            _ => break,
        };
        l4 += more + 8;
        if l4 > l3 + MAX_HEADER_BYTES {
            return Err(Unparsed::Other);
        }
        if fragment == Fragment::Later {
            break;
        }
    }
    *header = Header {
        source,
        destination,
        protocol: next,
        time_to_live,
        fragment,
        fragment_id,
        length: u16::from_be_bytes([l0, l1]).saturating_add(IPV6_BYTES as u16),
        l4,
    };
    Ok(())
}
