// SPDX-License-Identifier: Apache-2.0
//! Packet sockets: one that sends frames on any link, and those that receive frames. They know links and bytes,
//! not what the frames mean.

use std::io;

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

/// The number that stands for all links.
pub(crate) const ALL_LINKS: u32 = 0;

/// A socket that sends frames, and receives none.
///
/// # Errors
/// The kernel does not provide one, mostly for lack of CAP_NET_RAW.
pub(crate) fn sender() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)
}

/// Sends a whole Ethernet frame on the link of number `index`.
pub(crate) fn send(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    socket.send_to(frame, &link_address(index, ethertype)?).map(|_| ())
}

/// Receives frames of one type. It does not see frames that this host sends, nor those that an XDP or TC program
/// keeps from the kernel.
#[derive(Debug)]
pub(crate) struct Listener {
    // No UDP is involved: this is tokio's only socket type that accepts any
    // descriptor and reads whole datagrams by recv(2).
    socket: UdpSocket,
}

impl Listener {
    /// Receives the frames of this type, on the link of number `index`, that pass the filter.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing, or the link is gone.
    pub(crate) fn open(index: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Self> {
        // Protocol 0 receives nothing, so no frame arrives before the filter is attached.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(0)))?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        socket.bind(&link_address(index, ethertype)?)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())? })
    }

    /// The next frame, or as much of its start as has room. Cancel safe.
    ///
    /// # Errors
    /// The link went down or away. If it comes up again, more frames arrive.
    pub(crate) async fn next<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
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
