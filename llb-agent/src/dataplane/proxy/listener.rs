// SPDX-License-Identifier: Apache-2.0
//! The listener of one frontend: its sockets, each on a worker, and a task for each
//! that takes what arrives (TCP: `accept.rs`, UDP: `udp.rs`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::accept::accept;
use super::frontend_context::FrontendContext;
use super::udp;
use crate::model::Protocol;

/// The sockets of a frontend and the tasks that serve them. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    stop: CancellationToken,
    closed: CancellationToken,
    tasks: Weak<Tasks>,
    tcp: Vec<Weak<TcpListener>>,
    udp: Vec<Weak<UdpSocket>>,
}

impl Listener {
    /// Serves each socket on one worker. There may be more inherited sockets than
    /// workers: all are served, because the kernel sends clients to each.
    ///
    /// # Errors
    /// A worker can't watch another socket. Tasks that have started end at once.
    pub(super) fn start(sockets: Vec<Socket>, context: &Arc<FrontendContext>) -> io::Result<Self> {
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let tasks = Arc::new(Tasks {
            changed: Arc::clone(&context.plane.changed),
            stop: stop.clone(),
            has_died: AtomicBool::new(false),
            _closed: closed.clone().drop_guard(),
        });
        let mut listener =
            Self { stop, closed, tasks: Arc::downgrade(&tasks), tcp: Vec::new(), udp: Vec::new() };
        let started = sockets.into_iter().try_for_each(|socket| listener.take(socket, context, &tasks));
        if started.is_err() {
            // Not `close`: the previous agent may still serve the same sockets.
            listener.leave();
        }
        started.map(|()| listener)
    }

    /// Serves these sockets too.
    ///
    /// # Errors
    /// The listener is closed, or a worker can't watch another socket.
    pub(super) fn add(&mut self, sockets: Vec<Socket>, context: &Arc<FrontendContext>) -> io::Result<()> {
        let tasks = self.tasks.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        sockets.into_iter().try_for_each(|socket| self.take(socket, context, &tasks))
    }

    /// How many sockets it has.
    pub(super) fn count(&self) -> usize {
        self.tcp.len() + self.udp.len()
    }

    fn take(&mut self, socket: Socket, context: &Arc<FrontendContext>, tasks: &Arc<Tasks>) -> io::Result<()> {
        let worker = context.plane.workers.next();
        // The socket must be watched by the worker's runtime, not by the caller's.
        let _inside = worker.enter();
        let (context, task) = (Arc::clone(context), Task(Arc::clone(tasks)));
        match context.frontend.protocol {
            Protocol::Tcp => {
                let socket = Arc::new(TcpListener::from_std(socket.into())?);
                self.tcp.push(Arc::downgrade(&socket));
                worker.spawn(async move {
                    let stop = &task.0.stop;
                    stop.run_until_cancelled(accept(socket, &context, stop)).await;
                });
            }
            Protocol::Udp => {
                let socket = Arc::new(UdpSocket::from_std(socket.into())?);
                self.udp.push(Arc::downgrade(&socket));
                worker.spawn(async move { udp::forward(socket, context, &task.0.stop).await });
            }
        }
        Ok(())
    }

    /// TCP refuses connections from this call on; the sockets are closed soon
    /// after. Idempotent.
    pub(super) fn close(&self) {
        self.stop.cancel();
        for listener in self.tcp.iter().filter_map(Weak::upgrade) {
            if let Err(error) = SockRef::from(&*listener).shutdown(std::net::Shutdown::Both) {
                tracing::debug!(%error, "cannot shut down a listener");
            }
        }
    }

    /// Takes nothing more from the sockets, because another agent serves them.
    /// Unlike [`Listener::close`], it leaves what waits in them. Idempotent.
    pub(super) fn leave(&self) {
        self.stop.cancel();
    }

    /// Duplicates of the sockets, for another agent.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let tcp = self.tcp.iter().filter_map(Weak::upgrade).map(|socket| socket.as_fd().try_clone_to_owned());
        let udp = self.udp.iter().filter_map(Weak::upgrade).map(|socket| socket.as_fd().try_clone_to_owned());
        tcp.chain(udp).collect()
    }

    /// Whether it takes traffic.
    pub(super) fn is_open(&self) -> bool {
        !self.stop.is_cancelled()
    }

    /// Completes when all sockets are closed, so that the port is free.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.closed.clone().cancelled_owned()
    }
}

/// Shared by the tasks of one listener. The last task drops it, which completes
/// [`Listener::closed`].
#[derive(Debug)]
struct Tasks {
    changed: Arc<Notify>,
    stop: CancellationToken,
    has_died: AtomicBool,
    _closed: DropGuard,
}

/// Held by one task. If the task ends without being stopped, or panics, the
/// other tasks are stopped too, and the frontend is bound anew.
#[derive(Debug)]
struct Task(Arc<Tasks>);

impl Drop for Task {
    fn drop(&mut self) {
        if !self.0.stop.is_cancelled() {
            self.0.has_died.store(true, Ordering::Relaxed);
            self.0.stop.cancel();
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        if self.has_died.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}
