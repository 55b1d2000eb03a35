// SPDX-License-Identifier: Apache-2.0
//! Packet sockets that receive what the neighbours on one link say about addresses. They know frames, not
//! VIPs.

use std::io;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

use super::super::frame::{
    ETHERTYPE_ARP, ETHERTYPE_IPV6, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEXT_HEADER_ICMPV6,
};
use crate::packet_socket::link_address;

/// How many bytes of a frame are read. The parser uses the first 86.
pub(in crate::addresses) const HEARD_LENGTH: usize = 128;

/// Receives ARP or neighbour discovery on one link. It does not see frames that
/// this host sends.
#[derive(Debug)]
pub(in crate::addresses) struct Listener {
    // No UDP is involved: this is tokio's only socket type that accepts any
    // descriptor and reads whole datagrams by recv(2).
    socket: UdpSocket,
}

impl Listener {
    /// Receives ARP on the link of number `index`.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing, or the link is gone.
    pub(in crate::addresses) fn arp(index: u32) -> io::Result<Self> {
        Self::open(index, ETHERTYPE_ARP, &[])
    }

    /// Receives Neighbor Solicitations and Advertisements on the link of number
    /// `index`.
    ///
    /// # Errors
    /// As [`Listener::arp`].
    pub(in crate::addresses) fn neighbor_discovery(index: u32) -> io::Result<Self> {
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
        Self::open(index, ETHERTYPE_IPV6, &filter)
    }

    fn open(index: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Self> {
        // Protocol 0 receives nothing, so no frame arrives before the filter is attached.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(0)))?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        socket.bind(&link_address(index, ethertype)?)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())? })
    }

    /// The next frame, or its first [`HEARD_LENGTH`] bytes. Cancel safe.
    ///
    /// # Errors
    /// The link went down or away. If it comes up again, more frames arrive.
    pub(in crate::addresses) async fn next<'a>(
        &self,
        buffer: &'a mut [u8; HEARD_LENGTH],
    ) -> io::Result<&'a [u8]> {
        let length = self.socket.recv(buffer).await?;
        Ok(&buffer[..length])
    }
}
