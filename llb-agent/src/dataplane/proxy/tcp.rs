// SPDX-License-Identifier: Apache-2.0
//! One TCP connection: find a backend that answers, then relay. How a backend
//! is chosen is in `selection.rs`, how bytes move in `relay.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::affinity::choose;
use super::bind::prepare;
use super::exhaustion::lacks_resources;
use super::frontend::{FrontendContext, PlaneContext};
use super::latency::round_trip;
use super::metrics::Refusal;
use super::proxy_protocol::header;
use super::relay::{Relay, Sockets};
use super::selection::Chosen;
use super::service_limit::ServicePermit;
use super::traffic::FrontendTraffic;
use crate::model::{Backend, Protocol, Rule};

/// Backends that one connection tries. Dead ones are remembered, so only the
/// first connections after many have died at once come near it; it bounds what
/// one client can make llb do.
const MAX_CONNECT_ATTEMPTS: usize = 16;

/// All attempts of one connection together, in connect time-outs. A client
/// that has waited for three is about to give up.
const CONNECT_BUDGET_TIMEOUTS: u32 = 3;

/// Counts a connection as open, everywhere it is counted, until dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    context: Arc<FrontendContext>,
    /// In the frontend's connections.
    entered: usize,
    peer: SocketAddr,
    since: Instant,
    traffic: Arc<FrontendTraffic>,
    _service_permit: ServicePermit,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    /// # Errors
    /// The rule does not admit this client, or as many as allowed are open.
    pub(super) fn admit(context: &Arc<FrontendContext>, peer: SocketAddr) -> Result<Self, Refusal> {
        let in_force = context.in_force.load();
        let terms = &in_force.rule.terms;
        if !terms.source_ranges.admits(peer.ip()) {
            return Err(Refusal::SourceRange);
        }
        let service_permit =
            in_force.service_count.admit(terms.max_connections).ok_or(Refusal::ServiceLimit)?;
        let permits = Arc::clone(&context.plane.connection_permits);
        let permit = permits.try_acquire_owned().map_err(|_| Refusal::Limit)?;
        let entered = context.connections.enter().ok_or(Refusal::NoBackend)?;
        context.plane.metrics.connections.inc();
        context.plane.metrics.connections_active.inc();
        let traffic = Arc::clone(&in_force.traffic);
        traffic.connections.inc();
        traffic.active.inc();
        Ok(Self {
            context: Arc::clone(context),
            entered,
            peer,
            since: Instant::now(),
            traffic,
            _service_permit: service_permit,
            _permit: permit,
        })
    }

    /// Its number among the frontend's connections.
    pub(super) fn entered(&self) -> usize {
        self.entered
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let duration = self.since.elapsed().as_secs_f64();
        let PlaneContext { metrics, .. } = &*self.context.plane;
        metrics.connections_active.dec();
        metrics.duration.observe(duration);
        self.traffic.active.dec();
        self.traffic.duration.observe(duration);
        self.context.connections.leave(self.entered);
    }
}

/// Serves one accepted connection to its end, or until the task is aborted.
pub(super) async fn serve(open: OpenConnection, client: TcpStream) {
    // Both sides are closed before `open` says so.
    converse(&open, client).await;
}

async fn converse(open: &OpenConnection, client: TcpStream) {
    let PlaneContext { metrics, config, .. } = &*open.context.plane;
    // What the client has sent with its handshake goes out with llb's own.
    let mut relay = Relay::new(config);
    if let Err(error) = relay.read_ahead(&client) {
        tracing::debug!(%error, "client left at once");
        return;
    }
    let (backend, chosen) = match connect(&open.context, open.peer, relay.has_read()).await {
        Ok(connected) => connected,
        Err(refusal) => return open.context.refused(refusal, 1),
    };
    let elapsed = open.since.elapsed().as_secs_f64();
    metrics.connect_time.observe(elapsed);
    open.traffic.connect_time.observe(elapsed);
    chosen.traffic().connections.inc();
    let counted = [&metrics.bytes, &open.traffic.bytes, &chosen.traffic().bytes];
    let sockmap = open.context.plane.sockmap.as_ref().ok();
    if let Some(complete) = relay.run(Sockets { client, backend }, config, sockmap, counted).await {
        if let Ok(time) = round_trip(&complete.backend) {
            chosen.traffic().round_trip.observe(time);
        }
        close_cleanly(&complete.client);
        close_cleanly(&complete.backend);
    }
}

/// Tries backends by the rule until one accepts. None has got a byte of the
/// client's before, so it does not notice how many it took.
async fn connect(
    context: &FrontendContext,
    client: SocketAddr,
    has_data: bool,
) -> Result<(TcpStream, Chosen), Refusal> {
    let timeout = context.plane.config.connect_timeout;
    let give_up = Instant::now() + timeout * CONNECT_BUDGET_TIMEOUTS;
    let mut tried: Vec<Backend> = Vec::new();
    let mut refusal = Refusal::NoBackend;
    while tried.len() < MAX_CONNECT_ATTEMPTS && Instant::now() < give_up {
        let rule = Arc::clone(&context.in_force.load().rule);
        let Some(chosen) = choose(context, &rule, client, &tried, Instant::now()) else { break };
        let backend = chosen.backend;
        tried.push(backend);
        let started = Instant::now();
        let deadline = give_up.min(started + timeout);
        let attempt = attempt(backend, &rule, client, context.frontend.socket_address(), has_data);
        match tokio::time::timeout_at(deadline, attempt).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(stream) => {
                context.selection.answered(&chosen);
                chosen.traffic().connect_time.observe(started.elapsed());
                return Ok((stream, chosen));
            }
            Err(error) => {
                tracing::debug!(frontend = %context.frontend, %backend, %error, "cannot connect");
                context.plane.metrics.connect_failures(Protocol::Tcp).inc();
                if lacks_resources(&error) {
                    refusal = Refusal::Resources;
                } else {
                    context.selection.failed(backend, Instant::now());
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
        // The handshake's last ACK rides on the data that follows at once.
        rustix::net::sockopt::set_tcp_quickack(&socket, false)?;
    }
    let mut stream = socket.connect(backend.address).await?;
    if let Some(version) = rule.terms.proxy_protocol {
        stream.write_all(&header(version, client, vip)).await?;
    }
    Ok(stream)
}

/// Both directions are complete: let the kernel deliver what is in its buffers.
fn close_cleanly(side: &TcpStream) {
    if let Err(error) = SockRef::from(side).set_linger(None) {
        tracing::debug!(%error, "connection ends with a reset");
    }
}
