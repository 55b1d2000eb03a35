//! One TCP connection: find a backend that answers, then relay. How a backend
//! is chosen is in `selection.rs`, how bytes move in `relay.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::affinity::choose;
use super::exhaustion::lacks_resources;
use super::frontend::FrontendContext;
use super::metrics::Refusal;
use super::proxy_protocol::header;
use super::relay::{Ending, relay};
use super::selection::Chosen;
use super::service_limit::ServicePermit;
use crate::model::{Backend, Protocol, Rule};

/// Backends that one connection tries. Dead ones are remembered, so only the
/// first connections after many have died at once come near it; it bounds what
/// one client can make llb do.
const MAX_CONNECT_ATTEMPTS: usize = 16;

/// All attempts of one connection together, in connect time-outs. A client
/// that has waited for three is about to give up.
const CONNECT_BUDGET_TIMEOUTS: u32 = 3;

/// A side that was silent for so long is asked whether it still exists.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Between two questions without answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Questions without answer after which a side is lost: 60 s + 4 x 15 s = 2 min.
///
/// This, not `TCP_USER_TIMEOUT`, ends connections (half-closed ones too) whose
/// peer vanished: the latter would also cut a client that is there and merely
/// pauses reading (tcp(7): "due to zero window size"). Unacknowledged data is
/// bounded by the kernel (`net.ipv4.tcp_retries2`, about 15 min).
const KEEPALIVE_PROBES: u32 = 4;

/// Counts a connection as open, everywhere it is counted, until dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    context: Arc<FrontendContext>,
    peer: SocketAddr,
    since: Instant,
    _service_permit: ServicePermit,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    /// # Errors
    /// The rule does not admit this client, or as many as allowed are open.
    pub(super) fn admit(context: &Arc<FrontendContext>, peer: SocketAddr) -> Result<Self, Refusal> {
        let rule = context.rule.load();
        if !rule.terms.source_ranges.admits(peer.ip()) {
            return Err(Refusal::SourceRange);
        }
        let service_permit = context
            .plane
            .service_counts
            .admit(&rule.service, rule.terms.max_connections)
            .ok_or(Refusal::ServiceLimit)?;
        let permits = Arc::clone(&context.plane.connection_permits);
        let permit = permits.try_acquire_owned().map_err(|_| Refusal::Limit)?;
        context.plane.metrics.connections.inc();
        context.plane.metrics.connections_active.inc();
        context.connections.send_modify(|open| *open += 1);
        let context = Arc::clone(context);
        Ok(Self { context, peer, since: Instant::now(), _service_permit: service_permit, _permit: permit })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.context.plane.metrics.connections_active.dec();
        self.context.plane.metrics.duration.observe(self.since.elapsed().as_secs_f64());
        self.context.connections.send_modify(|open| *open -= 1);
    }
}

/// Serves one accepted connection to its end, or until the frontend is cut.
pub(super) async fn serve(open: OpenConnection, client: TcpStream) {
    let context = &open.context;
    if let Err(error) = prepare(&client) {
        tracing::debug!(%error, "client left at once");
        return;
    }
    // Owns the client side, so that it is closed before `open` says so.
    let conversation = async move {
        let (backend, _counted) = match connect(context, open.peer).await {
            Ok(connected) => {
                context.plane.metrics.connect_time.observe(open.since.elapsed().as_secs_f64());
                connected
            }
            Err(refusal) => {
                context.plane.metrics.refusals(Protocol::Tcp, refusal).inc();
                return;
            }
        };
        if relay(&client, &backend, &context.plane.metrics.bytes).await == Ending::Clean {
            close_cleanly(&client);
            close_cleanly(&backend);
        }
    };
    context.cut.run_until_cancelled(conversation).await;
}

/// Closes with RST.
pub(super) fn reset(client: TcpStream) {
    if let Err(error) = client.set_zero_linger() {
        tracing::debug!(%error, "client left before it was refused");
    }
}

/// Tries backends by the rule until one accepts. No byte has been read from
/// the client, so it does not notice how many it took.
async fn connect(context: &FrontendContext, client: SocketAddr) -> Result<(TcpStream, Chosen), Refusal> {
    let timeout = context.plane.config.connect_timeout;
    let give_up = Instant::now() + timeout * CONNECT_BUDGET_TIMEOUTS;
    let mut tried: Vec<Backend> = Vec::new();
    let mut refusal = Refusal::NoBackend;
    while tried.len() < MAX_CONNECT_ATTEMPTS && Instant::now() < give_up {
        let rule = context.rule.load_full();
        let Some(chosen) = choose(context, &rule, client, &tried, Instant::now()) else { break };
        let backend = chosen.backend;
        tried.push(backend);
        let deadline = give_up.min(Instant::now() + timeout);
        let attempt = attempt(backend, &rule, client, context.frontend.socket_address());
        match tokio::time::timeout_at(deadline, attempt).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(stream) => {
                context.selection.answered(&chosen);
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
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(backend.address).await?;
    prepare(&stream)?;
    if let Some(version) = rule.terms.proxy_protocol {
        stream.write_all(&header(version, client, vip)).await?;
    }
    Ok(stream)
}

fn prepare(side: &TcpStream) -> io::Result<()> {
    // Small writes are passed on as they come; to gather them is up to the sender.
    side.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(side).set_tcp_keepalive(&keepalive)?;
    // Whatever drops this socket resets it, unless `close_cleanly` came first.
    side.set_zero_linger()
}

/// Both directions are complete: let the kernel deliver what is in its buffers.
fn close_cleanly(side: &TcpStream) {
    if let Err(error) = SockRef::from(side).set_linger(None) {
        tracing::debug!(%error, "connection ends with a reset");
    }
}
