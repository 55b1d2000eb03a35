//! Binding the socket of a frontend to its VIP and port, and saying why that
//! failed. Accepting and receiving happen elsewhere.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::owner;
use crate::dataplane::DataPlaneError;
use crate::model::{Family, Frontend, Protocol};

/// Connections that the kernel completes before llb accepts them. As much as
/// Linux allows by default (`net.core.somaxconn`), so that a burst during a
/// short pause of accepting is not turned away.
const LISTEN_BACKLOG: i32 = 4096;

/// The socket of a frontend, bound and (TCP) listening.
#[derive(Clone, Debug)]
pub(super) enum BoundSocket {
    /// Accepts connections.
    Tcp(Arc<TcpListener>),
    /// Receives the datagrams of all clients and sends all replies.
    Udp(Arc<UdpSocket>),
}

/// Binds `frontend`. The VIP need not be on a link yet.
///
/// # Errors
/// Whatever kept the kernel from it; for a port in use, with the program.
pub(super) async fn bind(frontend: Frontend) -> Result<BoundSocket, DataPlaneError> {
    match try_bind(&frontend) {
        Ok(socket) => Ok(socket),
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

fn try_bind(frontend: &Frontend) -> io::Result<BoundSocket> {
    let address = frontend.socket_address();
    let kind = match frontend.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)?;
    match frontend.family() {
        Family::V4 => socket.set_freebind_v4(true)?,
        Family::V6 => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    match frontend.protocol {
        Protocol::Tcp => {
            // Connections of an earlier listener (draining, TIME_WAIT) must not keep the
            // port from the next one. Two listeners still exclude each other.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(LISTEN_BACKLOG)?;
            Ok(BoundSocket::Tcp(Arc::new(TcpListener::from_std(socket.into())?)))
        }
        Protocol::Udp => {
            // No SO_REUSEADDR: for UDP it would take the port from whoever has it.
            socket.bind(&address.into())?;
            Ok(BoundSocket::Udp(Arc::new(UdpSocket::from_std(socket.into())?)))
        }
    }
}
