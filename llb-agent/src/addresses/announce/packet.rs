// SPDX-License-Identifier: Apache-2.0
//! The sockets of this room: one that sends frames on any link, and those that receive what
//! the neighbours on one link say about addresses. They know frames, not VIPs.

use std::io;

use socket2::SockFilter;

use super::super::frame::{
    ETHERTYPE_ARP, ETHERTYPE_IPV6, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEXT_HEADER_ICMPV6,
};
pub(in crate::addresses) use crate::packet_socket::Listener;

/// How many bytes of a frame are read. The parser uses the first 86.
pub(in crate::addresses) const HEARD_LENGTH: usize = 128;

/// Receives ARP on the link of number `index`.
///
/// # Errors
/// CAP_NET_RAW is missing, or the link is gone.
pub(in crate::addresses) fn arp(index: u32) -> io::Result<Listener> {
    Listener::open(index, ETHERTYPE_ARP, &[])
}

/// Receives Neighbor Solicitations and Advertisements on the link of number
/// `index`.
///
/// # Errors
/// As [`arp`].
pub(in crate::addresses) fn neighbor_discovery(index: u32) -> io::Result<Listener> {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // The kernel filters, because otherwise this socket would get all IPv6 traffic of the link.
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 6), // Ethernet header, then next header.
        SockFilter::new(IF_EQUAL, 0, 3, NEXT_HEADER_ICMPV6.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, 14 + 40), // Ethernet and IPv6 header, then ICMPv6 type.
        SockFilter::new(IF_EQUAL, 2, 0, NEIGHBOR_ADVERTISEMENT.into()),
        SockFilter::new(IF_EQUAL, 1, 0, NEIGHBOR_SOLICITATION.into()),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, HEARD_LENGTH as u32),
    ];
    Listener::open(index, ETHERTYPE_IPV6, &filter)
}
