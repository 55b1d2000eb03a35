// SPDX-License-Identifier: Apache-2.0
//! Receives and sends many datagrams with one system call: by recvmmsg(2), and
//! as runs of datagrams that the kernel joins (UDP_GRO) and splits (UDP_SEGMENT,
//! udp(7)). Knows nothing of sessions.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{SockRef, Socket};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The largest datagram, and the largest run of joined ones: the length fields of
/// UDP and IP have 16 bits (RFC 768).
const MAX_DATAGRAM_BYTES: usize = 65_535;

thread_local! {
    /// 2 MiB for each worker that has received a datagram; only the used part is resident.
    static BATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH_SIZE * MAX_DATAGRAM_BYTES]);
}

/// The abilities of this kernel.
#[derive(Debug)]
pub(super) struct UdpOffload {
    state: UdpSocketState,
}

/// A run: one or more datagrams of one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagrams<'a> {
    pub(super) peer: SocketAddr,
    pub(super) bytes: &'a [u8],
    /// The length of each datagram; the last may be shorter.
    stride: usize,
}

impl Datagrams<'_> {
    /// The number of datagrams.
    pub(super) fn count(&self) -> u64 {
        self.each().count() as u64
    }

    fn each(&self) -> impl Iterator<Item = &[u8]> {
        // An empty run is one empty datagram.
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.stride.max(1)))
    }
}

impl UdpOffload {
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn probe() -> io::Result<Self> {
        // With a socket of its own, because probing also forbids fragments, as QUIC
        // wants it. The relay must not change that for its clients and backends.
        let probed = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self { state: UdpSocketState::new(UdpSockRef::from(&probed))? })
    }

    /// Lets the kernel join datagrams that arrive at `socket`, if it can.
    pub(super) fn gather(&self, socket: &Socket) {
        let on: libc::c_int = 1;
        let length = size_of_val(&on) as libc::socklen_t;
        #[expect(unsafe_code, reason = "neither socket2 nor rustix has UDP_GRO")]
        // SAFETY: the kernel reads `length` bytes from the pointer, which is to `on`: an
        // int of that length, which lives until the call returns.
        let outcome = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw const on).cast(), length)
        };
        if outcome != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "cannot set UDP_GRO; each datagram is received by itself");
        }
    }

    /// Passes what has arrived to `handle`, at most one batch.
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
            let outcome = socket.try_io(Interest::READABLE, || {
                received = self.state.recv(UdpSockRef::from(socket), &mut buffers, &mut metas)?;
                // Fewer than asked for: the socket is empty, and another call is not needed to see that.
                if received < BATCH_SIZE { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            if received == 0 {
                return outcome;
            }
            for (buffer, meta) in buffers.iter().zip(&metas[..received]) {
                let bytes = &buffer[..meta.len.min(buffer.len())];
                handle(Datagrams { peer: meta.addr, bytes, stride: meta.stride });
            }
            Ok(())
        })
    }

    /// Sends all datagrams of a run; to `to` if the socket is not connected. Never
    /// waits: what does not fit the buffer is lost, as on any link.
    ///
    /// # Errors
    /// The kernel's reason for the first datagram that could not be sent.
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
            // One by one if the path or the link does not take runs; some datagrams may be sent twice.
            if !matches!(&sent, Err(error) if is_about_segments(error)) {
                return sent;
            }
        }
        // Not through tokio, which does not know yet that a new socket is writable.
        let socket = SockRef::from(socket);
        datagrams.each().try_for_each(|datagram| match to {
            Some(client) => socket.send_to(datagram, &client.into()).map(|_| ()),
            None => socket.send(datagram).map(|_| ()),
        })
    }
}

/// udp(7): EMSGSIZE or EINVAL if a segment does not fit the path; EIO if the link
/// can't compute checksums.
fn is_about_segments(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL | libc::EIO))
}
