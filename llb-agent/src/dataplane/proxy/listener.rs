// SPDX-License-Identifier: Apache-2.0
//! The sockets of one frontend that takes traffic: one for each worker, and on
//! each a loop. The loop of TCP is here; that of UDP is in `udp.rs`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::exhaustion::EXHAUSTED_PAUSE;
use super::frontend::FrontendContext;
use super::metrics::AcceptErrorKind;
use super::tcp::{self, OpenConnection};
use super::udp;
use crate::model::Protocol;

/// The loops that serve the sockets of a frontend. A clone is of the same ones.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    stop: CancellationToken,
    closed: CancellationToken,
    tcp: Vec<Weak<TcpListener>>,
    udp: Vec<Weak<UdpSocket>>,
}

impl Listener {
    /// Serves each socket on a worker of its own. Inherited ones may be more
    /// than there are workers: each is served, since the kernel sends clients to each.
    ///
    /// # Errors
    /// A worker can't watch more sockets; those begun end at once.
    pub(super) fn start(sockets: Vec<Socket>, context: &Arc<FrontendContext>) -> io::Result<Self> {
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let end = Arc::new(End {
            changed: Arc::clone(&context.plane.changed),
            stop: stop.clone(),
            has_died: AtomicBool::new(false),
            _closed: closed.clone().drop_guard(),
        });
        let mut listener = Self { stop, closed, tcp: Vec::new(), udp: Vec::new() };
        let started = sockets.into_iter().zip(context.plane.workers.handles().iter().cycle()).try_for_each(
            |(socket, worker)| {
                // The socket is watched by the worker's runtime, not by the caller's.
                let _inside = worker.enter();
                let (context, running) = (Arc::clone(context), Running(Arc::clone(&end)));
                match context.frontend.protocol {
                    Protocol::Tcp => {
                        let socket = Arc::new(TcpListener::from_std(socket.into())?);
                        listener.tcp.push(Arc::downgrade(&socket));
                        worker.spawn(async move {
                            let stop = &running.0.stop;
                            stop.run_until_cancelled(accept(socket, &context, stop)).await;
                        });
                    }
                    Protocol::Udp => {
                        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
                        listener.udp.push(Arc::downgrade(&socket));
                        worker.spawn(async move { udp::forward(socket, context, &running.0.stop).await });
                    }
                }
                Ok(())
            },
        );
        if started.is_err() {
            // Not closed: a predecessor may still serve by them.
            listener.leave();
        }
        started.map(|()| listener)
    }

    /// TCP refuses from this call on; the sockets are closed soon after. Idempotent.
    pub(super) fn close(&self) {
        self.stop.cancel();
        for listener in self.tcp.iter().filter_map(Weak::upgrade) {
            if let Err(error) = SockRef::from(&*listener).shutdown(std::net::Shutdown::Both) {
                tracing::debug!(%error, "listener was closed already");
            }
        }
    }

    /// Takes nothing more from the sockets, which are another agent's by now:
    /// unlike [`Listener::close`] it leaves alone what waits in them. Idempotent.
    pub(super) fn leave(&self) {
        self.stop.cancel();
    }

    /// The sockets once more, for another agent.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(super) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let tcp = self.tcp.iter().filter_map(Weak::upgrade).map(|socket| socket.as_fd().try_clone_to_owned());
        let udp = self.udp.iter().filter_map(Weak::upgrade).map(|socket| socket.as_fd().try_clone_to_owned());
        tcp.chain(udp).collect()
    }

    /// Takes traffic.
    pub(super) fn is_open(&self) -> bool {
        !self.stop.is_cancelled()
    }

    /// Until all sockets are closed, so that the port is free.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.closed.clone().cancelled_owned()
    }
}

/// Shared by the loops of one listener; dropped by the last one, it says that
/// all sockets are closed.
#[derive(Debug)]
struct End {
    changed: Arc<Notify>,
    stop: CancellationToken,
    has_died: AtomicBool,
    _closed: DropGuard,
}

/// One loop. If it ends by itself, or panics, it ends the others too: the
/// frontend is then bound anew.
#[derive(Debug)]
struct Running(Arc<End>);

impl Drop for Running {
    fn drop(&mut self) {
        if !self.0.stop.is_cancelled() {
            self.0.has_died.store(true, Ordering::Relaxed);
            self.0.stop.cancel();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.has_died.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}

/// Accepts until the socket listens no more.
async fn accept(listener: Arc<TcpListener>, context: &Arc<FrontendContext>, stop: &CancellationToken) {
    let frontend = context.frontend;
    let mut is_exhausted = false;
    loop {
        let error = match listener.accept().await {
            Ok((client, peer)) => {
                is_exhausted = false;
                admit(client, peer, context);
                continue;
            }
            // It was closed: the token is set before the socket is shut down.
            Err(_) if stop.is_cancelled() => return,
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
            let entered = open.entered();
            let task = tokio::spawn(tcp::serve(open, client));
            context.connections.started(entered, task.abort_handle());
        }
        // Dropped: reset, as all sockets that this listener accepted (`bind::prepare`).
        Err(refusal) => {
            context.refused(refusal, 1);
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
