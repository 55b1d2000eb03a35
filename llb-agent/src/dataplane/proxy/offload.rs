// SPDX-License-Identifier: Apache-2.0
//! Receiving and sending many datagrams by one call: recvmmsg(2), and runs of
//! datagrams that the kernel has gathered (UDP_GRO) or takes apart (UDP_SEGMENT,
//! udp(7)). Knows nothing of sessions.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{SockRef, Socket};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The largest datagram, and the largest run of gathered ones: the length
/// fields of UDP and IP have 16 bits (RFC 768).
const MAX_DATAGRAM_BYTES: usize = 65_535;

thread_local! {
    /// 2 MiB for each worker that has seen a datagram; only what was used of it is resident.
    static BATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH_SIZE * MAX_DATAGRAM_BYTES]);
}

/// What the kernel can do.
#[derive(Debug)]
pub(super) struct Offload {
    state: UdpSocketState,
}

/// One or more datagrams of one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagrams<'a> {
    pub(super) peer: SocketAddr,
    pub(super) bytes: &'a [u8],
    /// Bytes of each; the last may be shorter.
    stride: usize,
}

impl Datagrams<'_> {
    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.each().count() as u64
    }

    fn each(&self) -> impl Iterator<Item = &[u8]> {
        // An empty datagram is one too.
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.stride.max(1)))
    }
}

impl Offload {
    /// # Errors
    /// There are no more descriptors.
    pub(super) fn probe() -> io::Result<Self> {
        // A socket of its own: probing also forbids fragments, as QUIC wants it,
        // and those who use ours decide that themselves.
        let probed = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self { state: UdpSocketState::new(UdpSockRef::from(&probed))? })
    }

    /// Lets the kernel gather datagrams for `socket`, where it can.
    pub(super) fn gather(&self, socket: &Socket) {
        let on: libc::c_int = 1;
        let length = size_of_val(&on) as libc::socklen_t;
        #[expect(unsafe_code, reason = "neither socket2 nor rustix has UDP_GRO")]
        // SAFETY: the pointer is to an int that lives through the call, as its length says.
        let outcome = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw const on).cast(), length)
        };
        if outcome != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "no UDP_GRO");
        }
    }

    /// Gives `handle` what has arrived, at most one batch.
    ///
    /// # Errors
    /// As recvmmsg(2); `WouldBlock`: nothing has arrived.
    pub(super) fn receive(
        &self,
        socket: &UdpSocket,
        mut handle: impl FnMut(Datagrams<'_>),
    ) -> io::Result<()> {
        BATCH.with_borrow_mut(|batch| {
            let mut parts = batch.chunks_mut(MAX_DATAGRAM_BYTES).map(IoSliceMut::new);
            let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| parts.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            let mut received = 0;
            let told = socket.try_io(Interest::READABLE, || {
                received = self.state.recv(UdpSockRef::from(socket), &mut buffers, &mut metas)?;
                // Fewer than asked for: there is no more, which saves the call that would find out.
                if received < BATCH_SIZE { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            if received == 0 {
                return told;
            }
            for (buffer, meta) in buffers.iter().zip(&metas[..received]) {
                let bytes = &buffer[..meta.len.min(buffer.len())];
                handle(Datagrams { peer: meta.addr, bytes, stride: meta.stride });
            }
            Ok(())
        })
    }

    /// Sends all; to `to` where the socket is not connected. Never waits: what
    /// does not fit the buffer is lost, as on any link.
    ///
    /// # Errors
    /// Why the first that could not be sent was not.
    pub(super) fn send(
        &self,
        socket: &UdpSocket,
        datagrams: &Datagrams<'_>,
        to: Option<SocketAddr>,
    ) -> io::Result<()> {
        let most = datagrams.stride * self.state.max_gso_segments();
        if datagrams.bytes.len() > datagrams.stride && most > datagrams.stride {
            let destination = match to {
                Some(client) => client,
                None => socket.peer_addr()?,
            };
            let sent = datagrams.bytes.chunks(most).try_for_each(|contents| {
                let segment_size = Some(datagrams.stride);
                let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
                self.state.try_send(UdpSockRef::from(socket), &transmit)
            });
            // One by one if the way out is too narrow, or can't do it; a few may come twice.
            if !matches!(&sent, Err(error) if is_about_segments(error)) {
                return sent;
            }
        }
        // Not by tokio: it would not know yet that a new socket is writable.
        let socket = SockRef::from(socket);
        datagrams.each().try_for_each(|datagram| match to {
            Some(client) => socket.send_to(datagram, &client.into()).map(|_| ()),
            None => socket.send(datagram).map(|_| ()),
        })
    }
}

/// udp(7): EMSGSIZE or EINVAL, a segment does not fit the path; EIO, the link
/// can't make checksums.
fn is_about_segments(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL | libc::EIO))
}
