// SPDX-License-Identifier: Apache-2.0
//! The admin endpoint: /healthz, /readyz, /metrics, /state, /explain, /members, /api/v1. It only reads.
//!
//! ```text
//!   server.rs    accepts connections; bounds their number, and the time of a request and its answer
//!     listener.rs  TCP and Unix sockets
//!     host.rs    refuses requests that came by a foreign name
//!   mod.rs       the pages
//!     v1.rs      the API that commands read
//!     shown.rs   what they are made of
//!     formats.rs the text formats of metrics
//!     body.rs    answers that are sent piece by piece
//!   socket.rs    makes the Unix socket
//! ```

mod body;
mod formats;
mod host;
mod listener;
mod server;
mod shown;
mod socket;
mod v1;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::formats::Format;
use self::shown::Admin;
pub use self::socket::{AdminSocket, AdminSocketError};
use crate::clock;
use crate::dataplane::{BackendStates, Counting};
use crate::error_chain::ErrorChain;
use crate::explain::{Explanation, explain};
use crate::model::{Announce, ServiceName, VIP_LINK};
use crate::reconcile::Report;

/// The most problems that /readyz lists; /state has them all.
const LISTED_PROBLEMS: usize = 100;

/// The TCP side of the admin endpoint can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on --admin {address}; choose another one")]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Binds `address`; port 0 means any port. If a predecessor passed on its
/// listener on that address, that listener is used instead.
///
/// # Errors
/// The address is in use, or does not belong to this machine.
pub async fn bind(
    address: SocketAddr,
    inherited: Option<(SocketAddr, OwnedFd)>,
) -> Result<TcpListener, AdminError> {
    let bound = match inherited {
        Some((bound, socket)) if bound == address => TcpListener::from_std(socket.into()),
        _ => bind_patiently(address).await,
    };
    bound.map_err(|source| AdminError { address, source })
}

/// Binds `address`, and tries again while it is in use. An agent that was killed
/// loses its state lock before its listener, because the kernel closes descriptors
/// one after the other; its successor has the lock by then and must not fail here.
async fn bind_patiently(address: SocketAddr) -> io::Result<TcpListener> {
    /// Together one second.
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 1..TRIES {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::time::sleep(PAUSE).await,
            bound => return bound,
        }
    }
    TcpListener::bind(address).await
}

/// Serves until the tasks are aborted: one for each of the two, with limits of its own. Open
/// connections continue after that.
pub fn serve(
    listener: Option<TcpListener>,
    socket: Option<AdminSocket>,
    report: watch::Receiver<Arc<Report>>,
    registry: Registry,
    backends: BackendStates,
    counting: Counting,
) -> JoinSet<()> {
    let socket = socket.and_then(AdminSocket::publish);
    serve_within(server::LIMITS, (listener, socket), report, registry, backends, counting)
}

fn serve_within(
    limits: server::Limits,
    (listener, socket): (Option<TcpListener>, Option<UnixListener>),
    report: watch::Receiver<Arc<Report>>,
    mut registry: Registry,
    backends: BackendStates,
    counting: Counting,
) -> JoinSet<()> {
    let refused = server::Refused::register(&mut registry);
    let admin = Admin::new(report, registry, backends, counting);
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/state", get(state))
        .route("/members", get(members))
        .route("/explain/{namespace}/{name}", get(explain_service))
        .merge(v1::routes())
        .with_state(admin);
    let mut tasks = JoinSet::new();
    if let Some(socket) = socket {
        tasks.spawn(server::run(socket, routes.clone(), limits, refused.clone()));
    }
    if let Some(listener) = listener {
        tasks.spawn(server::run(listener, routes, limits, refused));
    }
    tasks
}

/// 200 from the first complete round on, even if the source fails later, since
/// what is served goes on. Lists the problems in any case.
async fn readyz(State(admin): State<Admin>) -> Response {
    let report = admin.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = match (report.ready, report.has_snapshot) {
        (true, _) => "ready\n",
        (false, false) => "waiting for the first whole snapshot\n",
        (false, true) => "the first whole snapshot is being acted on\n",
    }
    .to_owned();
    if report.writer.lease.is_some() {
        text.push_str(&format!("statuses and Events are written by {}\n", report.writer));
    }
    if report.group.as_ref().is_some_and(|group| group.drained) {
        text.push_str("drained: the other boxes of the group get the VIPs; `llb-agent undrain` ends it\n");
    }
    if report.announce == Announce::Routed {
        text.push_str(&format!(
            "VIPs are routed: a routing daemon is to tell routers of those on {VIP_LINK}\n"
        ));
    }
    for problem in report.problems.iter().take(LISTED_PROBLEMS) {
        text.push_str(&format!("{problem}\n"));
    }
    if let Some(more) = report.problems.len().checked_sub(LISTED_PROBLEMS).filter(|more| *more > 0) {
        text.push_str(&format!("and {more} more problems; /state lists them all\n"));
    }
    (status, text).into_response()
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    let registry = Arc::clone(&admin.registry);
    let write = move || {
        let mut text = String::new();
        (encode(&mut text, &registry), format.of(text))
    };
    match admin.whole(write).await {
        Ok((Ok(()), body)) => {
            ([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")], body).into_response()
        }
        Ok((Err(error), _)) => failed(&error),
        Err(error) => failed(&error),
    }
}

async fn state(State(admin): State<Admin>) -> Response {
    let body = body::json(admin.report());
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The shares of the group as text.
async fn members(State(admin): State<Admin>) -> Response {
    let report = admin.report();
    match &report.group {
        Some(group) => group.to_string().into_response(),
        None if report.has_snapshot => {
            (StatusCode::NOT_FOUND, "this agent is in no group; --group makes it a member of one\n")
                .into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "this agent is starting\n").into_response(),
    }
}

async fn explain_service(
    State(admin): State<Admin>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let name = ServiceName::new(namespace, name);
    let report = admin.report();
    let backends = admin.backends.clone();
    let write = move || match explain(&report, &backends, &name, clock::now_std()) {
        Explanation::Known(text) => (StatusCode::OK, text),
        Explanation::NotServed(text) => (StatusCode::NOT_FOUND, text),
        Explanation::Starting(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    };
    match admin.whole(write).await {
        Ok((status, body)) => {
            (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
        }
        Err(error) => failed(&error),
    }
}

/// The answer that could not be written.
fn failed(error: &(dyn Error + 'static)) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, ErrorChain(error).to_string()).into_response()
}

#[cfg(test)]
mod tests;
