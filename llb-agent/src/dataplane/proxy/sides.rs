// SPDX-License-Identifier: Apache-2.0
//! The two sockets of a proxied connection, and the options that both have from
//! their first byte to their end.

use std::io;
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

/// The most unread bytes, with the kernel's overhead, of one direction. Without
/// this limit a socket whose peer stops reading grows to `net.ipv4.tcp_rmem`
/// (32 MiB on new kernels). Together with the send buffer of 4 MiB
/// (`net.ipv4.tcp_wmem`) a blocked direction stays below 8 MiB. With a round
/// trip of 50 ms it still allows some 250 Mbit/s for one connection.
const RECEIVE_BUFFER_BYTES: usize = 3 << 20;

/// The two sockets of a connection.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) client: TcpStream,
    pub(super) backend: TcpStream,
}

/// Sets the options of a TCP socket of either side. Accepted connections
/// inherit them from their listener.
///
/// # Errors
/// The peer is gone already.
pub(super) fn prepare(side: &Socket) -> io::Result<()> {
    // Small writes are passed on as they come; gathering them is up to the sender.
    side.set_tcp_nodelay(true)?;
    // An urgent byte keeps its place among the others (RFC 6093, 6). Otherwise it
    // would be lost, because the relay does not read urgent data separately.
    side.set_out_of_band_inline(true)?;
    // The kernel doubles the given value (socket(7)). Without CAP_NET_ADMIN the limit
    // is `net.core.rmem_max`, which is far too small: then the kernel keeps choosing.
    if let Err(error) = set_socket_recv_buffer_size_force(side, RECEIVE_BUFFER_BYTES / 2) {
        tracing::debug!(%error, "cannot limit the receive buffer; the kernel chooses its size");
    }
    // Closing this socket resets the connection, until `close_cleanly` lifts that.
    side.set_linger(Some(Duration::ZERO))
}

/// Both directions are complete: closing lets the kernel deliver what is left in
/// its buffers.
pub(super) fn close_cleanly(side: &TcpStream) {
    if let Err(error) = SockRef::from(side).set_linger(None) {
        tracing::debug!(%error, "cannot close cleanly; the connection ends with a reset");
    }
}
