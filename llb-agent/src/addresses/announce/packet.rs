// SPDX-License-Identifier: Apache-2.0
//! Packet sockets: one that sends frames on any link, and those that receive what
//! the neighbours on one link say about addresses. They know frames, not VIPs.

use std::io;

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

use super::super::frame::{
    ETHERTYPE_ARP, ETHERTYPE_IPV6, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEXT_HEADER_ICMPV6,
};

/// How many bytes of a frame are read. The parser uses the first 86.
pub(in crate::addresses) const HEARD_LENGTH: usize = 128;

/// A socket that sends frames, and receives none.
///
/// # Errors
/// The kernel does not provide one, mostly for lack of CAP_NET_RAW.
pub(in crate::addresses) fn sender() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)
}

/// Sends a whole Ethernet frame on the link of number `index`.
pub(in crate::addresses) fn send(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    socket.send_to(frame, &link_address(index, ethertype)?).map(|_| ())
}

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

/// The address of packet(7): a link, and the type of the frames.
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
    #[expect(
        unsafe_code,
        reason = "std, socket2 and rustix have no type for the addresses of packet sockets"
    )]
    // SAFETY: `try_init` passes a pointer to a `sockaddr_storage`, which is valid
    // for writes, and large and aligned enough for every kind of socket address,
    // so also for `sockaddr_ll`. The closure initialises a whole `sockaddr_ll` and
    // sets the length to its size, so no uninitialised byte counts as part of the
    // address.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(address);
            length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t);
            Ok(())
        })
    }?;
    Ok(address)
}
