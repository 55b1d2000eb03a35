//! Accepting connections: one loop for each TCP frontend. It never waits for a
//! client or a backend; what happens to a connection is in `tcp.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::exhaustion::EXHAUSTED_PAUSE;
use super::frontend::FrontendContext;
use super::metrics::AcceptErrorKind;
use super::tcp::{self, OpenConnection};
use crate::model::Protocol;

/// Accepts until the socket listens no more.
pub(super) async fn accept(listener: &TcpListener, context: &Arc<FrontendContext>) {
    let frontend = context.frontend;
    let mut is_exhausted = false;
    loop {
        let error = match listener.accept().await {
            Ok((client, peer)) => {
                is_exhausted = false;
                admit(client, peer, context);
                continue;
            }
            Err(error) => error,
        };
        let kind = kind_of(&error);
        context.plane.metrics.accept_errors(kind).inc();
        match kind {
            AcceptErrorKind::Connection => tracing::debug!(%frontend, %error, "connection lost in the queue"),
            AcceptErrorKind::Resources => {
                if !is_exhausted {
                    tracing::warn!(%frontend, %error, "cannot accept for now");
                }
                is_exhausted = true;
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            AcceptErrorKind::Listener => {
                tracing::error!(%frontend, %error, "the listener is dead");
                return;
            }
        }
    }
}

fn admit(client: TcpStream, peer: SocketAddr, context: &Arc<FrontendContext>) {
    match OpenConnection::admit(context, peer) {
        Ok(open) => {
            tokio::spawn(tcp::serve(open, client));
        }
        Err(refusal) => {
            context.plane.metrics.refusals(Protocol::Tcp, refusal).inc();
            tcp::reset(client);
        }
    }
}

/// accept(2): an error already pending on the new connection is reported by
/// accept and is no fault of the listener. What is not known is treated as
/// exhaustion, because that pauses and goes on.
fn kind_of(error: &io::Error) -> AcceptErrorKind {
    match error.raw_os_error() {
        Some(
            libc::ECONNABORTED
            | libc::EINTR
            | libc::EPERM
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENONET,
        ) => AcceptErrorKind::Connection,
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK) => AcceptErrorKind::Listener,
        _ => AcceptErrorKind::Resources,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_socket_ends_the_loop() {
        for (errno, expected) in [
            (libc::EMFILE, AcceptErrorKind::Resources),
            (libc::ENFILE, AcceptErrorKind::Resources),
            (libc::ENOMEM, AcceptErrorKind::Resources),
            (libc::ENOBUFS, AcceptErrorKind::Resources),
            (libc::ECONNABORTED, AcceptErrorKind::Connection),
            (libc::EINVAL, AcceptErrorKind::Listener),
        ] {
            assert_eq!(kind_of(&io::Error::from_raw_os_error(errno)), expected, "{errno}");
        }
    }
}
