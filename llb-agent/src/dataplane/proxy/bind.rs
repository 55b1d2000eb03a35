// SPDX-License-Identifier: Apache-2.0
//! Binding the sockets of a frontend to its VIP and port, and saying why that
//! failed. Accepting and receiving happen elsewhere.

use std::io::{self, ErrorKind};
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Socket, Type};

use super::owner;
use crate::dataplane::DataPlaneError;
use crate::model::{Family, Frontend, Protocol};

/// Connections that the kernel completes before llb accepts them. As much as
/// Linux allows by default (`net.core.somaxconn`), so that a burst during a
/// short pause of accepting is not turned away.
const LISTEN_BACKLOG: i32 = 4096;

/// What the kernel may hold of one direction's unread bytes, with its own
/// overhead. It would grow to `net.ipv4.tcp_rmem` (32 MiB on new kernels) in
/// front of a peer that has stopped reading; with the send buffer of 4 MiB
/// (`net.ipv4.tcp_wmem`) a stuck direction stays below 8 MiB. At 50 ms of round
/// trip this is still some 250 Mbit/s for one connection.
const RECEIVE_BUFFER_BYTES: usize = 3 << 20;

/// Binds `frontend` by `count` sockets (TCP: listening), among which the kernel
/// spreads clients by the hash of their addresses (SO_REUSEPORT, socket(7)).
/// The VIP need not be on a link yet.
///
/// # Errors
/// Whatever kept the kernel from it; for a port in use, with the program.
pub(super) async fn bind(frontend: Frontend, count: usize) -> Result<Vec<Socket>, DataPlaneError> {
    match try_bind(&frontend, count) {
        Ok(sockets) => Ok(sockets),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let program = tokio::task::spawn_blocking(move || owner::find(&frontend)).await.unwrap_or(None);
            Err(DataPlaneError::PortInUse { frontend, program })
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(DataPlaneError::NotPermitted { frontend })
        }
        Err(source) => Err(DataPlaneError::Bind { frontend, source }),
    }
}

fn try_bind(frontend: &Frontend, count: usize) -> io::Result<Vec<Socket>> {
    let address = frontend.socket_address().into();
    // The first comes without SO_REUSEPORT, since with it a port of another program
    // that has it too would be shared with that one, and nobody would notice.
    let first = open(frontend)?;
    first.bind(&address)?;
    first.set_reuse_port(true)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        let socket = open(frontend)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address)?;
        sockets.push(socket);
    }
    if frontend.protocol == Protocol::Tcp {
        for socket in &sockets {
            socket.listen(LISTEN_BACKLOG)?;
        }
    }
    Ok(sockets)
}

fn open(frontend: &Frontend) -> io::Result<Socket> {
    let kind = match frontend.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let domain = Domain::for_address(frontend.socket_address());
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None)?;
    match frontend.family() {
        Family::V4 => socket.set_freebind_v4(true)?,
        Family::V6 => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    if frontend.protocol == Protocol::Tcp {
        // Connections of an earlier listener (draining, TIME_WAIT) must not keep the
        // port from the next one. Two listeners still exclude each other. (For UDP
        // it would take the port from whoever has it.)
        socket.set_reuse_address(true)?;
        // Accepted connections inherit these, which saves two calls for each.
        prepare(&socket)?;
    }
    Ok(socket)
}

/// How llb wants each TCP connection, on both sides, from its first byte.
///
/// # Errors
/// The peer is gone already.
pub(super) fn prepare(side: &Socket) -> io::Result<()> {
    // Small writes are passed on as they come; to gather them is up to the sender.
    side.set_tcp_nodelay(true)?;
    // An urgent byte stays in its place among the others (RFC 6093, 6): it would be
    // lost to whoever does not ask for it.
    side.set_out_of_band_inline(true)?;
    // The kernel doubles what it is told (socket(7)). Without CAP_NET_ADMIN the limit
    // would be `net.core.rmem_max`, far too little: then it stays the kernel's affair.
    if let Err(error) = set_socket_recv_buffer_size_force(side, RECEIVE_BUFFER_BYTES / 2) {
        tracing::debug!(%error, "the receive buffer stays as the kernel wants it");
    }
    // Whatever drops this socket resets it, unless a relay ended cleanly and lifted it.
    side.set_linger(Some(Duration::ZERO))
}
