// SPDX-License-Identifier: Apache-2.0
//! One UDP session: a client address, and a socket connected to its backend. The
//! loop in `udp.rs` sends the client's datagrams; a task passes on the replies.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;

use super::exhaustion::lacks_resources;
use super::frontend_context::{ActiveRule, FrontendContext};
use super::metrics::Refusal;
use super::namespace_share::NamespacePermit;
use super::selection::Chosen;
use super::traffic::FrontendTraffic;
use super::udp_offload::{Datagrams, UdpOffload};
use crate::clock;
use crate::model::{Backend, Protocol};

// === Session ===

/// One of all sessions, and a part of the namespace's share.
pub(super) type SessionPermits = (OwnedSemaphorePermit, NamespacePermit);

/// A session in the loop's table. Dropping it ends the session.
pub(super) struct Session {
    conversation: Arc<Conversation>,
    task: AbortHandle,
    /// Not in the conversation, which lives until the aborted task has ended.
    _permits: SessionPermits,
}

impl Session {
    /// `task` passes on the replies of `conversation`.
    pub(super) fn new(conversation: Arc<Conversation>, task: AbortHandle, permits: SessionPermits) -> Self {
        conversation.context.plane.counters.totals.udp_sessions_active.inc();
        conversation.traffic.connections.inc();
        conversation.traffic.active.inc();
        conversation.chosen.traffic().connections.inc();
        Self { conversation, task, _permits: permits }
    }

    pub(super) fn backend(&self) -> Backend {
        self.conversation.backend()
    }

    pub(super) fn task_id(&self) -> Id {
        self.task.id()
    }

    /// When a datagram last passed, in either direction.
    pub(super) fn last_activity(&self) -> Instant {
        *self.conversation.last_activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends to the backend.
    pub(super) fn send(&self, datagrams: &Datagrams<'_>, now: Instant) -> io::Result<()> {
        let Conversation { context, traffic, chosen, socket, .. } = &*self.conversation;
        self.conversation.touch(now);
        context.plane.udp_offload.send(socket, datagrams, None)?;
        context.plane.counters.totals.udp_datagrams.forward.inc_by(datagrams.count());
        let length = datagrams.bytes.len() as u64;
        traffic.bytes.forward.inc_by(length);
        chosen.traffic().bytes.forward.inc_by(length);
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
        self.conversation.context.plane.counters.totals.udp_sessions_active.dec();
        self.conversation.traffic.active.dec();
    }
}

/// One client address and its backend: what both directions of a session share.
pub(super) struct Conversation {
    client: SocketAddr,
    chosen: Chosen,
    /// Connected to the backend.
    socket: UdpSocket,
    last_activity: Mutex<Instant>,
    context: Arc<FrontendContext>,
    traffic: Arc<FrontendTraffic>,
}

impl Conversation {
    /// Chooses a backend and opens a socket to it.
    ///
    /// # Errors
    /// There is no backend, or it can't be reached.
    pub(super) fn open(
        client: SocketAddr,
        active: &ActiveRule,
        context: &Arc<FrontendContext>,
        now: Instant,
    ) -> Result<Self, Refusal> {
        let chosen = context.choose(&active.rule, client, &[], now).ok_or(Refusal::NoBackend)?;
        let backend = chosen.backend;
        match connect(backend, &context.plane.udp_offload) {
            Ok(socket) => {
                let (last_activity, context) = (Mutex::new(now), Arc::clone(context));
                let traffic = Arc::clone(&active.traffic);
                Ok(Self { client, chosen, socket, last_activity, context, traffic })
            }
            Err(error) => {
                note_failure(context, backend, &error, now);
                Err(if lacks_resources(&error) { Refusal::Resources } else { Refusal::Unreachable })
            }
        }
    }

    fn backend(&self) -> Backend {
        self.chosen.backend
    }

    fn touch(&self, now: Instant) {
        *self.last_activity.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// Passes on replies until the session's socket fails, for example because the
/// backend sent an ICMP port unreachable. Returns the client.
pub(super) async fn relay_replies(
    conversation: Arc<Conversation>,
    frontend_socket: Arc<UdpSocket>,
) -> SocketAddr {
    loop {
        match relay_batch(&conversation, &frontend_socket).await {
            Ok(()) => {}
            // There was nothing to read, or the path MTU has become smaller.
            Err(error) if is_about_this_datagram(&error) => {}
            Err(error) => {
                note_failure(&conversation.context, conversation.backend(), &error, clock::now());
                return conversation.client;
            }
        }
        tokio::task::consume_budget().await;
    }
}

async fn relay_batch(conversation: &Conversation, frontend_socket: &UdpSocket) -> io::Result<()> {
    let Conversation { context, traffic, chosen, .. } = conversation;
    // An ICMP error alone does not make a UDP socket readable.
    let ready = conversation.socket.ready(Interest::READABLE | Interest::ERROR).await?;
    if ready.is_error() {
        check_pending_error(&conversation.socket)?;
    }
    // While the frontend's socket is full, replies wait in the session's socket, not in memory.
    frontend_socket.writable().await?;
    context.plane.udp_offload.receive(&conversation.socket, |datagrams| {
        conversation.touch(clock::now());
        context.answered(chosen);
        match context.plane.udp_offload.send(frontend_socket, &datagrams, Some(conversation.client)) {
            Ok(()) => {
                context.plane.counters.totals.udp_datagrams.reply.inc_by(datagrams.count());
                let length = datagrams.bytes.len() as u64;
                traffic.bytes.reply.inc_by(length);
                chosen.traffic().bytes.reply.inc_by(length);
            }
            Err(error) => {
                if error.kind() == ErrorKind::WouldBlock {
                    // Tells tokio that the socket is full, so that the next batch waits.
                    let full = || io::Result::<()>::Err(ErrorKind::WouldBlock.into());
                    let _ = frontend_socket.try_io(Interest::WRITABLE, full);
                }
                tracing::debug!(frontend = %context.frontend, %error, "cannot send replies to the client");
                context.refused(Refusal::Undeliverable, datagrams.count());
            }
        }
    })
}

/// # Errors
/// An ICMP error that the kernel received about the peer; it is reported once.
fn check_pending_error(socket: &UdpSocket) -> io::Result<()> {
    // After `WouldBlock` tokio waits for the next error and does not report this one again.
    let pending = socket.try_io(Interest::ERROR, || match socket.take_error()? {
        Some(error) => Err(error),
        None => Err(ErrorKind::WouldBlock.into()),
    });
    match pending {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        outcome => outcome,
    }
}

fn connect(backend: Backend, offload: &UdpOffload) -> io::Result<UdpSocket> {
    let socket =
        Socket::new(Domain::for_address(backend.address), Type::DGRAM.nonblocking().cloexec(), None)?;
    socket.connect(&backend.address.into())?;
    offload.gather(&socket);
    UdpSocket::from_std(socket.into())
}

/// Counts a session that failed with `error`, and remembers that the backend failed.
pub(super) fn note_failure(context: &FrontendContext, backend: Backend, error: &io::Error, now: Instant) {
    tracing::debug!(frontend = %context.frontend, %backend, %error, "a UDP session has failed");
    context.plane.counters.totals.connect_failures(Protocol::Udp).inc();
    if !lacks_resources(error) {
        context.failed(backend, error, now);
    }
}

/// Whether the buffer is full or the datagram is too large: the session is fine.
pub(super) fn is_about_this_datagram(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EMSGSIZE))
}
