// SPDX-License-Identifier: Apache-2.0
//! What the admin endpoint accepts connections from: a TCP or a Unix socket.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A listening socket.
pub(super) trait Listener: Send + 'static {
    type Stream: Stream;

    /// The next connection. Cancel safe.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The address that the client called; `None` if it called a path.
    ///
    /// # Errors
    /// The client is gone.
    fn called(&self) -> io::Result<Option<IpAddr>>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Stream for TcpStream {
    fn called(&self) -> io::Result<Option<IpAddr>> {
        Ok(Some(self.local_addr()?.ip()))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Stream for UnixStream {
    fn called(&self) -> io::Result<Option<IpAddr>> {
        Ok(None)
    }
}
