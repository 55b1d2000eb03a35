// SPDX-License-Identifier: Apache-2.0
//! Binds the sockets of a frontend to its VIP and port, and says why that
//! failed. Accepting and receiving happen elsewhere.

use std::io::{self, ErrorKind};

use socket2::{Domain, Socket, Type};

use super::port_owner;
use super::sides::prepare;
use crate::dataplane::DataPlaneError;
use crate::model::{Family, Frontend, Protocol};

/// Connections that the kernel completes before llb accepts them. This is what
/// Linux allows by default (`net.core.somaxconn`), so a burst during a short
/// pause of the accept loop is not refused.
const LISTEN_BACKLOG: i32 = 4096;

/// Binds `frontend` by `count` sockets (TCP: listening). The kernel spreads
/// clients over them by a hash of their addresses (SO_REUSEPORT, socket(7)).
/// The VIP need not be on a link yet.
///
/// # Errors
/// The kernel's reason; for a port in use, with the program that has it.
pub(super) async fn bind(frontend: Frontend, count: usize) -> Result<Vec<Socket>, DataPlaneError> {
    match try_bind(&frontend, count) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let program =
                tokio::task::spawn_blocking(move || port_owner::find(&frontend)).await.unwrap_or(None);
            Err(DataPlaneError::PortInUse { frontend, program })
        }
        bound => bound.map_err(|error| refused(frontend, error)),
    }
}

/// As [`bind`] with one socket, but does not look for the program that has the port, which takes long.
///
/// # Errors
/// The kernel's reason.
pub(super) fn bind_one(frontend: Frontend) -> Result<Vec<Socket>, DataPlaneError> {
    try_bind(&frontend, 1).map_err(|error| refused(frontend, error))
}

/// Binds `count` more sockets beside those that `frontend` has.
///
/// # Errors
/// The kernel's reason.
pub(super) fn bind_more(frontend: &Frontend, count: usize) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    bind_beside(frontend, count, &mut sockets)?;
    listen(frontend, &sockets)?;
    Ok(sockets)
}

fn refused(frontend: Frontend, error: io::Error) -> DataPlaneError {
    match error.kind() {
        ErrorKind::AddrInUse => DataPlaneError::PortInUse { frontend, program: None },
        ErrorKind::PermissionDenied => DataPlaneError::NotPermitted { frontend },
        _ => DataPlaneError::Bind { frontend, source: error },
    }
}

fn try_bind(frontend: &Frontend, count: usize) -> io::Result<Vec<Socket>> {
    let address = frontend.socket_address().into();
    // The first socket is bound without SO_REUSEPORT. With it, binding would succeed
    // even if another program has the port with SO_REUSEPORT, and both would
    // silently share the traffic.
    let first = open(frontend)?;
    first.bind(&address)?;
    first.set_reuse_port(true)?;
    let mut sockets = vec![first];
    bind_beside(frontend, count.saturating_sub(1), &mut sockets)?;
    listen(frontend, &sockets)?;
    Ok(sockets)
}

/// Adds sockets that share the port with another one of this agent.
fn bind_beside(frontend: &Frontend, count: usize, sockets: &mut Vec<Socket>) -> io::Result<()> {
    for _ in 0..count {
        let socket = open(frontend)?;
        socket.set_reuse_port(true)?;
        socket.bind(&frontend.socket_address().into())?;
        sockets.push(socket);
    }
    Ok(())
}

fn listen(frontend: &Frontend, sockets: &[Socket]) -> io::Result<()> {
    if frontend.protocol == Protocol::Tcp {
        sockets.iter().try_for_each(|socket| socket.listen(LISTEN_BACKLOG))?;
    }
    Ok(())
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
        // Connections of an earlier listener (draining, TIME_WAIT) must not block the
        // port. Two listeners still exclude each other. Not for UDP: there it would
        // take the port from the socket that has it.
        socket.set_reuse_address(true)?;
        // Accepted connections inherit these options, which saves system calls for each.
        prepare(&socket)?;
    }
    Ok(socket)
}
