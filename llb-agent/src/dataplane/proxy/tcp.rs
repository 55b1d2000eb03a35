// SPDX-License-Identifier: Apache-2.0
//! One TCP connection: finds a backend that answers, then relays. How a backend
//! is chosen is in `selection/`, how bytes move in `relay.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::exhaustion::lacks_resources;
use super::frontend_context::FrontendContext;
use super::latency::round_trip;
use super::metrics::Refusal;
use super::namespace_share::NamespacePermit;
use super::plane_context::PlaneContext;
use super::proxy_protocol::header;
use super::relay::Relay;
use super::selection::Chosen;
use super::service_limit::ServicePermit;
use super::sides::{Sides, close_cleanly, prepare};
use super::traffic::FrontendTraffic;
use crate::clock;
use crate::model::{Backend, Protocol, Rule};

/// Backends that one connection tries. Failed backends are remembered, so only
/// the first connections after many backends have failed at once try several.
/// This bounds the work that one client can cause.
const MAX_CONNECT_ATTEMPTS: usize = 16;

/// The time for all attempts of one connection together, in connect time-outs.
/// A client that has waited this long is about to give up.
const CONNECT_BUDGET_TIMEOUTS: u32 = 3;

/// An admitted connection. It counts as open, in every count, until dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    context: Arc<FrontendContext>,
    number: usize,
    peer: SocketAddr,
    since: Instant,
    traffic: Arc<FrontendTraffic>,
    _service_permit: ServicePermit,
    _namespace_permit: NamespacePermit,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    /// # Errors
    /// The rule does not admit this client, or a limit of open connections is reached.
    pub(super) fn admit(context: &Arc<FrontendContext>, peer: SocketAddr) -> Result<Self, Refusal> {
        let active = context.active_rule.load();
        let terms = &active.rule.terms;
        if !terms.source_ranges.admits(peer.ip()) {
            return Err(Refusal::SourceRange);
        }
        let service_permit =
            active.service_count.admit(terms.max_connections).ok_or(Refusal::ServiceLimit)?;
        let PlaneContext { limits, counters, .. } = &*context.plane;
        let permits = Arc::clone(&limits.connections);
        let permit = permits.try_acquire_owned().map_err(|_| Refusal::Limit)?;
        let namespace_permit = active.namespace.connection().ok_or(Refusal::NamespaceShare)?;
        let number = context.connections.enter().ok_or(Refusal::NoBackend)?;
        counters.totals.connections.inc();
        counters.totals.connections_active.inc();
        let traffic = Arc::clone(&active.traffic);
        traffic.connections.inc();
        traffic.active.inc();
        Ok(Self {
            context: Arc::clone(context),
            number,
            peer,
            since: clock::now(),
            traffic,
            _service_permit: service_permit,
            _namespace_permit: namespace_permit,
            _permit: permit,
        })
    }

    /// Its number among the frontend's open connections.
    pub(super) fn number(&self) -> usize {
        self.number
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let duration = self.since.elapsed().as_secs_f64();
        let totals = &self.context.plane.counters.totals;
        totals.connections_active.dec();
        totals.duration.observe(duration);
        self.traffic.active.dec();
        self.traffic.duration.observe(duration);
        self.context.connections.leave(self.number);
    }
}

/// Serves one accepted connection to its end, or until the task is aborted.
pub(super) async fn serve(open: OpenConnection, client: TcpStream) {
    // `open` is dropped last, so a connection counts as open until both sides are closed.
    connect_and_relay(&open, client).await;
}

async fn connect_and_relay(open: &OpenConnection, client: TcpStream) {
    let PlaneContext { counters, config, sockmap, .. } = &*open.context.plane;
    let totals = &counters.totals;
    let config = config.load_full();
    // What the client sent with its handshake can go out with ours to the backend.
    let mut relay = Relay::new(&config);
    if let Err(error) = relay.read_ahead(&client) {
        tracing::debug!(%error, "the client left before its backend was connected");
        return;
    }
    let (backend, chosen) = match connect(&open.context, open.peer, relay.has_read()).await {
        Ok(connected) => connected,
        Err(refusal) => return open.context.refused(refusal, 1),
    };
    let elapsed = open.since.elapsed().as_secs_f64();
    totals.connect_time.observe(elapsed);
    open.traffic.connect_time.observe(elapsed);
    chosen.traffic().connections.inc();
    let bytes = [&totals.bytes, &open.traffic.bytes, &chosen.traffic().bytes];
    let sides = Sides { client, backend };
    if let Some(complete) = relay.run(sides, &config, sockmap.as_ref().ok(), bytes).await {
        if let Ok(time) = round_trip(&complete.backend) {
            chosen.traffic().round_trip.observe(time);
        }
        close_cleanly(&complete.client);
        close_cleanly(&complete.backend);
    }
}

/// Tries the rule's backends until one accepts. No backend has received a byte
/// of the client before that, so the client does not notice failed attempts.
async fn connect(
    context: &FrontendContext,
    client: SocketAddr,
    has_data: bool,
) -> Result<(TcpStream, Chosen), Refusal> {
    let timeout = context.plane.config.load().connect_timeout;
    let give_up = clock::now() + timeout * CONNECT_BUDGET_TIMEOUTS;
    let mut tried: Vec<Backend> = Vec::new();
    let mut refusal = Refusal::NoBackend;
    while tried.len() < MAX_CONNECT_ATTEMPTS && clock::now() < give_up {
        let rule = Arc::clone(&context.active_rule.load().rule);
        let Some(chosen) = context.choose(&rule, client, &tried, clock::now()) else { break };
        let backend = chosen.backend;
        tried.push(backend);
        let started = clock::now();
        let deadline = give_up.min(started + timeout);
        let attempt = attempt(backend, &rule, client, context.frontend.socket_address(), has_data);
        match tokio::time::timeout_at(deadline, attempt).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(stream) => {
                context.answered(&chosen);
                chosen.traffic().connect_time.observe(started.elapsed());
                return Ok((stream, chosen));
            }
            Err(error) => {
                tracing::debug!(frontend = %context.frontend, %backend, %error, "cannot connect");
                context.plane.counters.totals.connect_failures(Protocol::Tcp).inc();
                if lacks_resources(&error) {
                    refusal = Refusal::Resources;
                } else {
                    context.failed(backend, &error, clock::now());
                    refusal = Refusal::Unreachable;
                }
            }
        }
    }
    Err(refusal)
}

async fn attempt(
    backend: Backend,
    rule: &Rule,
    client: SocketAddr,
    vip: SocketAddr,
    has_data: bool,
) -> io::Result<TcpStream> {
    let socket = match backend.address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    prepare(&SockRef::from(&socket))?;
    if has_data || rule.terms.proxy_protocol.is_some() {
        // The last ACK of the handshake goes out with the data that follows at once.
        rustix::net::sockopt::set_tcp_quickack(&socket, false)?;
    }
    let mut stream = socket.connect(backend.address).await?;
    if let Some(version) = rule.terms.proxy_protocol {
        stream.write_all(&header(version, client, vip)).await?;
    }
    Ok(stream)
}
