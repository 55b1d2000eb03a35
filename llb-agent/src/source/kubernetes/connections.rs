// SPDX-License-Identifier: Apache-2.0
//! The open connections to the API. One whose own address left this machine carries nothing any more, but the
//! kernel says so only after many seconds of silence. It is ended as soon as the address is gone.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tower::Service;

/// Knows the open connections, as long as they are open.
#[derive(Clone, Debug, Default)]
pub struct ApiConnections(Arc<Mutex<Vec<Open>>>);

#[derive(Debug)]
struct Open {
    /// The address of this machine.
    own: SocketAddr,
    end: oneshot::Sender<()>,
}

impl ApiConnections {
    /// Ends those whose own address is no address of this machine any more.
    pub fn end_orphans(&self) {
        self.end_those(is_gone);
    }

    fn end_those(&self, is_orphan: impl Fn(SocketAddr) -> bool) {
        let mut open = self.lock();
        let (orphans, others) = std::mem::take(&mut *open)
            .into_iter()
            .filter(|open| !open.end.is_closed())
            .partition::<Vec<_>, _>(|open| is_orphan(open.own));
        *open = others;
        drop(open);
        for orphan in orphans {
            tracing::info!(
                address = %orphan.own.ip(),
                "the address of a connection to the Kubernetes API is no address of this machine any more; llb connects again"
            );
            // It may have ended by itself.
            let _ = orphan.end.send(());
        }
    }

    fn add(&self, stream: TokioIo<TcpStream>) -> ApiConnection {
        let (end, ended) = oneshot::channel();
        let mut open = self.lock();
        open.retain(|open| !open.end.is_closed());
        // A socket that has no address has failed.
        open.extend(stream.inner().local_addr().ok().map(|own| Open { own, end }));
        ApiConnection { stream, end: End::Possible(ended) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether no link has the address. Not found out if `net.ipv4.ip_nonlocal_bind` is set; then the connection ends
/// by its time-outs.
fn is_gone(address: SocketAddr) -> bool {
    let mut any_port = address;
    any_port.set_port(0);
    UdpSocket::bind(any_port).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Opens connections that [`ApiConnections`] knows.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) tcp: HttpConnector,
    pub(super) connections: ApiConnections,
}

type ConnectError = <HttpConnector as Service<Uri>>::Error;

impl Service<Uri> for Connector {
    type Response = ApiConnection;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<ApiConnection, ConnectError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.tcp.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connecting, connections) = (self.tcp.call(to), self.connections.clone());
        async move { Ok(connections.add(connecting.await?)) }.boxed()
    }
}

/// A connection that [`ApiConnections`] can end.
#[derive(Debug)]
pub(super) struct ApiConnection {
    stream: TokioIo<TcpStream>,
    end: End,
}

#[derive(Debug)]
enum End {
    Possible(oneshot::Receiver<()>),
    /// It is not known any more.
    Impossible,
    Reached,
}

impl ApiConnection {
    /// # Errors
    /// The connection was ended.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let End::Possible(receiver) = &mut self.end {
            match Pin::new(receiver).poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.end = End::Reached,
                Poll::Ready(Err(_)) => self.end = End::Impossible,
            }
        }
        match self.end {
            End::Possible(_) | End::Impossible => Ok(()),
            End::Reached => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "its own address is no address of this machine any more",
            )),
        }
    }

    fn inner(&mut self) -> Pin<&mut TokioIo<TcpStream>> {
        Pin::new(&mut self.stream)
    }
}

impl Read for ApiConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        self.inner().poll_read(cx, buffer)
    }
}

impl Write for ApiConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        self.inner().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        self.inner().poll_write_vectored(cx, bytes)
    }
}

impl Connection for ApiConnection {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_whose_own_address_is_gone_ends_and_others_go_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let connections = ApiConnections::default();
        let mut connector = Connector { tcp: HttpConnector::new(), connections: connections.clone() };
        let mut connection = TokioIo::new(connector.call(url).await.unwrap());
        let (mut server, _) = listener.accept().await.unwrap();

        // 127.0.0.1 is still there.
        connections.end_orphans();
        server.write_all(b"x").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'x');

        let reading = tokio::spawn(async move {
            let failed = connection.read_u8().await.unwrap_err();
            (failed.kind(), connection.write_all(b"x").await.unwrap_err().kind())
        });
        connections.end_those(|own| own.ip().is_loopback());
        let aborted = io::ErrorKind::ConnectionAborted;
        assert_eq!(reading.await.unwrap(), (aborted, aborted));
        assert!(connections.lock().is_empty());
    }

    #[test]
    fn an_address_is_gone_if_no_link_has_it() {
        assert!(!is_gone("127.0.0.1:1".parse().unwrap()));
        // For documentation (RFC 5737, RFC 3849).
        assert!(is_gone("203.0.113.77:1".parse().unwrap()));
        assert!(is_gone("[2001:db8:ffff::77]:1".parse().unwrap()));
    }
}
