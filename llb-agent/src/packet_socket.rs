// SPDX-License-Identifier: Apache-2.0
//! A packet socket that sends whole frames, and the addresses that packet sockets have.

use std::io;

use socket2::{Domain, SockAddr, Socket, Type};

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

/// The address of packet(7): a link, and the type of the frames.
pub(crate) fn link_address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
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
