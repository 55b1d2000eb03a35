// SPDX-License-Identifier: Apache-2.0
//! UDP of one frontend: a session for each client address, which is a socket
//! connected to one backend. TCP shares nothing with it but the selection.
//!
//! ```text
//!   client ---> frontend's socket ---> [loop: table of sessions] ---> session's socket ---> backend
//!   client <--- frontend's socket <--- [one task for each session] <- session's socket <--- backend
//! ```
//! One task owns the table: only it begins and ends sessions, so no datagram
//! is sent on a session that is about to be forgotten. UDP has no end that
//! could be waited for, so closing the frontend ends all sessions at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::affinity::choose;
use super::exhaustion::{EXHAUSTED_PAUSE, lacks_resources};
use super::frontend::{FrontendContext, InForce};
use super::metrics::{AcceptErrorKind, Refusal};
use super::offload::{Datagrams, Offload};
use super::selection::Chosen;
use super::traffic::FrontendTraffic;
use crate::model::{Backend, Protocol};

/// Times that datagrams are sent: when the kernel says that the backend is
/// gone, it has not sent them, and another backend gets them.
const SEND_ATTEMPTS: usize = 2;

/// Idle sessions are looked for this often in one idle time-out, so a session
/// lives at most a quarter longer.
const SWEEPS_PER_TIMEOUT: u32 = 4;

/// Even with a tiny time-out the loop has time for datagrams.
const MIN_SWEEP_INTERVAL: Duration = Duration::from_millis(1);

/// After another agent took the socket over, answers that are on their way are
/// still passed on for so long. Sessions begin anew over there.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// Forwards until stopped, then closes the socket and all sessions.
pub(super) async fn forward(socket: Arc<UdpSocket>, context: Arc<FrontendContext>, stop: &CancellationToken) {
    let mut sessions = Sessions { socket, context, table: HashMap::new(), tasks: JoinSet::new() };
    stop.run_until_cancelled(sessions.run()).await;
    if sessions.context.plane.handed_over.is_cancelled() {
        tokio::time::sleep(LAST_REPLIES).await;
    }
    // Each task holds the socket; the port must be free when this returns.
    sessions.tasks.shutdown().await;
}

/// The table and the loop that owns it.
struct Sessions {
    socket: Arc<UdpSocket>,
    context: Arc<FrontendContext>,
    table: HashMap<SocketAddr, Session>,
    /// One for each session; returns the client whose session has failed.
    tasks: JoinSet<SocketAddr>,
}

impl Sessions {
    async fn run(&mut self) {
        let idle_timeout = self.context.plane.config.udp_idle_timeout;
        let mut sweep = tokio::time::interval((idle_timeout / SWEEPS_PER_TIMEOUT).max(MIN_SWEEP_INTERVAL));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let socket = Arc::clone(&self.socket);
        loop {
            tokio::select! {
                biased;
                Some(failed) = self.tasks.join_next_with_id() => self.forget(failed),
                now = sweep.tick() => self.expire(now),
                ready = socket.readable() => {
                    if let Err(error) = ready.and_then(|()| self.forward_batch(&socket)) {
                        tracing::debug!(frontend = %self.context.frontend, %error, "cannot receive for now");
                        self.context.plane.metrics.accept_errors(AcceptErrorKind::Resources).inc();
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        }
    }

    fn forward_batch(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let (context, now) = (Arc::clone(&self.context), Instant::now());
        let received = context.plane.offload.receive(socket, |datagrams| {
            if let Err(refusal) = self.forward(&datagrams, now) {
                context.refused(refusal, datagrams.count());
            }
        });
        match received {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            received => received,
        }
    }

    fn forward(&mut self, datagrams: &Datagrams<'_>, now: Instant) -> Result<(), Refusal> {
        for _ in 0..SEND_ATTEMPTS {
            let session = self.session_of(datagrams.peer, now)?;
            match session.send(datagrams, now) {
                Ok(()) => return Ok(()),
                Err(error) if is_about_this_datagram(&error) => return Err(Refusal::Undeliverable),
                Err(error) => {
                    let backend = session.link.backend();
                    self.table.remove(&datagrams.peer);
                    note_failure(&self.context, backend, &error);
                }
            }
        }
        Err(Refusal::Unreachable)
    }

    /// The session of `client`; a new one if it has none, or if its backend
    /// has left the rule.
    fn session_of(&mut self, client: SocketAddr, now: Instant) -> Result<&Session, Refusal> {
        let in_force = self.context.in_force.load();
        let rule = &in_force.rule;
        if !rule.terms.source_ranges.admits(client.ip()) {
            self.table.remove(&client);
            return Err(Refusal::SourceRange);
        }
        let must_move = |session: &Session| !rule.backends.contains_key(&session.link.backend());
        if self.table.get(&client).is_some_and(must_move) {
            self.table.remove(&client);
        }
        match self.table.entry(client) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let permits = Arc::clone(&self.context.plane.session_permits);
                let permit = permits.try_acquire_owned().map_err(|_| Refusal::Limit)?;
                let link = Arc::new(Link::open(client, &in_force, &self.context, now)?);
                let replies = relay_replies(Arc::clone(&link), Arc::clone(&self.socket));
                Ok(entry.insert(Session::new(link, self.tasks.spawn(replies), permit)))
            }
        }
    }

    fn forget(&mut self, failed: Result<(Id, SocketAddr), JoinError>) {
        match failed {
            Ok((id, client)) => {
                // The client may have a newer session by now.
                if self.table.get(&client).is_some_and(|session| session.task.id() == id) {
                    self.table.remove(&client);
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(frontend = %self.context.frontend, %error, "session failed");
                self.table.retain(|_, session| session.task.id() != error.id());
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let idle_timeout = self.context.plane.config.udp_idle_timeout;
        self.table.retain(|_, session| session.link.last_activity() + idle_timeout > now);
    }
}

// === Session ===

/// A session as the loop has it; ends when dropped.
struct Session {
    link: Arc<Link>,
    task: AbortHandle,
    /// Here and not in the link, which lives until the task has noticed.
    _permit: OwnedSemaphorePermit,
}

impl Session {
    fn new(link: Arc<Link>, task: AbortHandle, permit: OwnedSemaphorePermit) -> Self {
        link.context.plane.metrics.udp_sessions_active.inc();
        link.traffic.connections.inc();
        link.traffic.active.inc();
        link.chosen.traffic().connections.inc();
        Self { link, task, _permit: permit }
    }

    fn send(&self, datagrams: &Datagrams<'_>, now: Instant) -> io::Result<()> {
        let Link { context, traffic, chosen, socket, .. } = &*self.link;
        self.link.touch(now);
        context.plane.offload.send(socket, datagrams, None)?;
        context.plane.metrics.udp_datagrams.forward.inc_by(datagrams.count());
        let length = datagrams.bytes.len() as u64;
        traffic.bytes.forward.inc_by(length);
        chosen.traffic().bytes.forward.inc_by(length);
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
        self.link.context.plane.metrics.udp_sessions_active.dec();
        self.link.traffic.active.dec();
    }
}

/// One client address and its backend: what both directions of a session share.
struct Link {
    client: SocketAddr,
    chosen: Chosen,
    /// Connected to the backend.
    socket: UdpSocket,
    last_activity: Mutex<Instant>,
    context: Arc<FrontendContext>,
    traffic: Arc<FrontendTraffic>,
}

impl Link {
    fn open(
        client: SocketAddr,
        in_force: &InForce,
        context: &Arc<FrontendContext>,
        now: Instant,
    ) -> Result<Self, Refusal> {
        let chosen = choose(context, &in_force.rule, client, &[], now).ok_or(Refusal::NoBackend)?;
        let backend = chosen.backend;
        match connect(backend, &context.plane.offload) {
            Ok(socket) => {
                let (last_activity, context) = (Mutex::new(now), Arc::clone(context));
                let traffic = Arc::clone(&in_force.traffic);
                Ok(Self { client, chosen, socket, last_activity, context, traffic })
            }
            Err(error) => {
                note_failure(context, backend, &error);
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

    fn last_activity(&self) -> Instant {
        *self.last_activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until the session's socket fails, for example because of an ICMP port
/// unreachable from the backend. Returns the client.
async fn relay_replies(link: Arc<Link>, frontend_socket: Arc<UdpSocket>) -> SocketAddr {
    loop {
        match relay_batch(&link, &frontend_socket).await {
            Ok(()) => {}
            // Nothing to read after all, or the path got narrower for the next datagrams.
            Err(error) if is_about_this_datagram(&error) => {}
            Err(error) => {
                note_failure(&link.context, link.backend(), &error);
                return link.client;
            }
        }
        tokio::task::consume_budget().await;
    }
}

async fn relay_batch(link: &Link, frontend_socket: &UdpSocket) -> io::Result<()> {
    let Link { context, traffic, chosen, .. } = link;
    // An ICMP error alone makes a UDP socket not readable.
    let ready = link.socket.ready(Interest::READABLE | Interest::ERROR).await?;
    if ready.is_error() {
        check_pending_error(&link.socket)?;
    }
    // A slow way to the client fills the session's buffer, not memory.
    frontend_socket.writable().await?;
    context.plane.offload.receive(&link.socket, |datagrams| {
        link.touch(Instant::now());
        context.selection.answered(chosen);
        match context.plane.offload.send(frontend_socket, &datagrams, Some(link.client)) {
            Ok(()) => {
                context.plane.metrics.udp_datagrams.reply.inc_by(datagrams.count());
                let length = datagrams.bytes.len() as u64;
                traffic.bytes.reply.inc_by(length);
                chosen.traffic().bytes.reply.inc_by(length);
            }
            Err(error) => {
                if error.kind() == ErrorKind::WouldBlock {
                    // tokio learns it from here, and waits before the next batch.
                    let full = || io::Result::<()>::Err(ErrorKind::WouldBlock.into());
                    let _ = frontend_socket.try_io(Interest::WRITABLE, full);
                }
                tracing::debug!(frontend = %context.frontend, %error, "replies lost");
                context.refused(Refusal::Undeliverable, datagrams.count());
            }
        }
    })
}

/// # Errors
/// What ICMP has told the kernel about the peer; told once.
fn check_pending_error(socket: &UdpSocket) -> io::Result<()> {
    // `WouldBlock` makes tokio wait for the next error instead of reporting this one again.
    let pending = socket.try_io(Interest::ERROR, || match socket.take_error()? {
        Some(error) => Err(error),
        None => Err(ErrorKind::WouldBlock.into()),
    });
    match pending {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        told => told,
    }
}

fn connect(backend: Backend, offload: &Offload) -> io::Result<UdpSocket> {
    let socket =
        Socket::new(Domain::for_address(backend.address), Type::DGRAM.nonblocking().cloexec(), None)?;
    socket.connect(&backend.address.into())?;
    offload.gather(&socket);
    UdpSocket::from_std(socket.into())
}

fn note_failure(context: &FrontendContext, backend: Backend, error: &io::Error) {
    tracing::debug!(frontend = %context.frontend, %backend, %error, "session failed");
    context.plane.metrics.connect_failures(Protocol::Udp).inc();
    if !lacks_resources(error) {
        context.selection.failed(backend, Instant::now());
    }
}

/// The buffer is full, or the datagram is too large: the session is fine.
fn is_about_this_datagram(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EMSGSIZE))
}
