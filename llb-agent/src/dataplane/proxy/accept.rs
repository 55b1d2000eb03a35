// SPDX-License-Identifier: Apache-2.0
//! The accept loop of one TCP listener: starts a task for each connection, and
//! tells an error of one connection from one of the listener or the machine.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::exhaustion::EXHAUSTED_PAUSE;
use super::frontend_context::FrontendContext;
use super::metrics::AcceptErrorKind;
use super::tcp::{self, OpenConnection};

/// Accepts until the socket no longer listens.
pub(super) async fn accept(
    listener: Arc<TcpListener>,
    context: &Arc<FrontendContext>,
    stop: &CancellationToken,
) {
    let frontend = context.frontend;
    let mut is_exhausted = false;
    loop {
        let error = match listener.accept().await {
            Ok((client, peer)) => {
                is_exhausted = false;
                admit(client, peer, context);
                continue;
            }
            // The listener was closed: `stop` is cancelled before the socket is shut down.
            Err(_) if stop.is_cancelled() => return,
            Err(error) => error,
        };
        let kind = kind_of(&error);
        context.plane.counters.totals.accept_errors(kind).inc();
        match kind {
            AcceptErrorKind::Connection => {
                tracing::debug!(%frontend, %error, "a connection was lost before it was accepted");
            }
            AcceptErrorKind::Resources => {
                if !is_exhausted {
                    tracing::warn!(%frontend, %error, "cannot accept connections; trying again");
                }
                is_exhausted = true;
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            AcceptErrorKind::Listener => {
                tracing::error!(%frontend, %error, "the listener has died");
                return;
            }
        }
    }
}

fn admit(client: TcpStream, peer: SocketAddr, context: &Arc<FrontendContext>) {
    match OpenConnection::admit(context, peer) {
        Ok(open) => {
            let number = open.number();
            let task = tokio::spawn(tcp::serve(open, client));
            context.connections.started(number, task.abort_handle());
        }
        // Dropping `client` resets it (`sides::prepare`).
        Err(refusal) => context.refused(refusal, 1),
    }
}

/// accept(2) also reports errors that were pending on the new connection; they
/// are no fault of the listener. An unknown error counts as exhaustion, because
/// that only pauses.
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
    fn only_a_dead_listener_ends_the_loop() {
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
