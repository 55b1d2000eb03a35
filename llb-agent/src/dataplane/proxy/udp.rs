// SPDX-License-Identifier: Apache-2.0
//! The UDP loop of one frontend socket. It keeps one session for each client
//! address (`udp_session.rs`).
//!
//! ```text
//!   client ---> frontend's socket ---> [loop: table of sessions] ---> session's socket ---> backend
//!   client <--- frontend's socket <--- [one task for each session] <- session's socket <--- backend
//! ```
//! The loop owns the table: only it starts and ends sessions, so no datagram is
//! sent on a session that is being removed. UDP has no end of a conversation to
//! wait for, so closing the frontend ends all sessions at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exhaustion::EXHAUSTED_PAUSE;
use super::frontend_context::FrontendContext;
use super::metrics::{AcceptErrorKind, Refusal};
use super::udp_offload::Datagrams;
use super::udp_session::{Conversation, Session, is_about_this_datagram, note_failure, relay_replies};

use crate::clock;

/// Attempts to send a datagram. If the kernel reports that the backend is gone,
/// it has not sent the datagram, and another backend gets it.
const SEND_ATTEMPTS: usize = 2;

/// Sweeps for idle sessions in one idle time-out. An idle session lives at most
/// a quarter of the time-out longer.
const SWEEPS_PER_TIMEOUT: u32 = 4;

/// Leaves time for datagrams even with a tiny idle time-out.
const MIN_SWEEP_INTERVAL: Duration = Duration::from_millis(1);

/// After the next agent took over the socket, replies that are under way are
/// still passed on for this long. The next agent starts new sessions.
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
    /// One for each session; returns the client if the session failed.
    tasks: JoinSet<SocketAddr>,
}

impl Sessions {
    async fn run(&mut self) {
        let mut next_sweep = clock::now();
        let socket = Arc::clone(&self.socket);
        loop {
            tokio::select! {
                biased;
                Some(failed) = self.tasks.join_next_with_id() => self.forget(failed),
                () = tokio::time::sleep_until(next_sweep) => next_sweep = self.expire(clock::now()),
                ready = socket.readable() => {
                    if let Err(error) = ready.and_then(|()| self.forward_batch(&socket)) {
                        tracing::debug!(frontend = %self.context.frontend, %error, "cannot receive; trying again");
                        self.context.plane.counters.totals.accept_errors(AcceptErrorKind::Resources).inc();
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        }
    }

    fn forward_batch(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let (context, now) = (Arc::clone(&self.context), clock::now());
        let received = context.plane.udp_offload.receive(socket, |datagrams| {
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
                    let backend = session.backend();
                    self.table.remove(&datagrams.peer);
                    note_failure(&self.context, backend, &error, now);
                }
            }
        }
        Err(Refusal::Unreachable)
    }

    /// The session of `client`. It is a new one if the client has none, or if
    /// the rule no longer has its backend.
    fn session_of(&mut self, client: SocketAddr, now: Instant) -> Result<&Session, Refusal> {
        let active = self.context.active_rule.load();
        let rule = &active.rule;
        if !rule.terms.source_ranges.admits(client.ip()) {
            self.table.remove(&client);
            return Err(Refusal::SourceRange);
        }
        let must_move = |session: &Session| !rule.backends.contains_key(&session.backend());
        if self.table.get(&client).is_some_and(must_move) {
            self.table.remove(&client);
        }
        match self.table.entry(client) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let permits = Arc::clone(&self.context.plane.limits.udp_sessions);
                let permit = permits.try_acquire_owned().map_err(|_| Refusal::Limit)?;
                let part = active.namespace.udp_session().ok_or(Refusal::NamespaceShare)?;
                let conversation = Arc::new(Conversation::open(client, &active, &self.context, now)?);
                let replies = relay_replies(Arc::clone(&conversation), Arc::clone(&self.socket));
                Ok(entry.insert(Session::new(conversation, self.tasks.spawn(replies), (permit, part))))
            }
        }
    }

    fn forget(&mut self, failed: Result<(Id, SocketAddr), JoinError>) {
        match failed {
            Ok((id, client)) => {
                // The client may have a newer session by now.
                if self.table.get(&client).is_some_and(|session| session.task_id() == id) {
                    self.table.remove(&client);
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(frontend = %self.context.frontend, %error, "the task of a UDP session has panicked");
                self.table.retain(|_, session| session.task_id() != error.id());
            }
        }
    }

    /// Ends idle sessions. Returns when to do that again.
    fn expire(&mut self, now: Instant) -> Instant {
        let idle_timeout = self.context.plane.config.load().udp_idle_timeout;
        self.table.retain(|_, session| session.last_activity() + idle_timeout > now);
        now + (idle_timeout / SWEEPS_PER_TIMEOUT).max(MIN_SWEEP_INTERVAL)
    }
}
