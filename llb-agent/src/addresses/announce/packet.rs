// SPDX-License-Identifier: Apache-2.0
//! Packet sockets: one that sends frames on any link, and those that hear what
//! neighbours say of addresses on one link. They know frames, not VIPs.

use std::io;

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

use super::super::frame::{
    ETHERTYPE_ARP, ETHERTYPE_IPV6, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEXT_HEADER_ICMPV6,
};

/// What is read of a frame, in bytes; what matters is in the first 86.
pub(in crate::addresses) const HEARD_LENGTH: usize = 128;

/// A socket that sends and hears nothing.
///
/// # Errors
/// Most likely a missing right: CAP_NET_RAW.
pub(in crate::addresses) fn sender() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)
}

/// Sends a whole Ethernet frame on the link of this number.
pub(in crate::addresses) fn send(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    socket.send_to(frame, &link_address(index, ethertype)?).map(|_| ())
}

/// Hears the neighbour discovery of one family on one link; nothing that this
/// host sends.
#[derive(Debug)]
pub(in crate::addresses) struct Listener {
    // tokio's only kind of socket that takes any descriptor and reads it by
    // recv(2), whole datagrams: nothing in it is UDP.
    socket: UdpSocket,
}

impl Listener {
    /// Hears ARP on the link of this number.
    ///
    /// # Errors
    /// A missing right, or the link is gone.
    pub(in crate::addresses) fn arp(index: u32) -> io::Result<Self> {
        Self::open(index, ETHERTYPE_ARP, &[])
    }

    /// Hears Neighbor Solicitations and Advertisements on the link of this number.
    ///
    /// # Errors
    /// As [`Listener::arp`].
    pub(in crate::addresses) fn neighbor_discovery(index: u32) -> io::Result<Self> {
        const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
        const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        // In the kernel, because the link's whole IPv6 traffic comes by here.
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
        // Protocol 0: nothing is heard before the filter is there.
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
    /// The link went down, or away; after the former more frames may come.
    pub(in crate::addresses) async fn next<'a>(
        &self,
        buffer: &'a mut [u8; HEARD_LENGTH],
    ) -> io::Result<&'a [u8]> {
        let length = self.socket.recv(buffer).await?;
        Ok(&buffer[..length])
    }
}

/// packet(7): a link, and which frames.
fn link_address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    #[expect(unsafe_code, reason = "neither std nor socket2 nor rustix has packet socket addresses")]
    // SAFETY: the storage is as large and as aligned as every kind of socket
    // address, and the written length is that of what was written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(address);
            length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t);
            Ok(())
        })
    }?;
    Ok(address)
}
