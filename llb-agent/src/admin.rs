// SPDX-License-Identifier: Apache-2.0
//! The admin endpoint: /healthz, /readyz, /metrics, /state, /explain. It only reads.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::dataplane::BackendStates;
use crate::error_chain::ErrorChain;
use crate::explain::explain;
use crate::model::ServiceName;
use crate::reconcile::Report;

/// The content type of the OpenMetrics text format 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Admin {
    report: watch::Receiver<Report>,
    registry: Arc<Registry>,
    backends: BackendStates,
}

/// The admin endpoint can't be opened.
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

/// Serves until the task is aborted. Open connections continue after that.
pub fn serve(
    listener: TcpListener,
    report: watch::Receiver<Report>,
    registry: Registry,
    backends: BackendStates,
) -> JoinHandle<()> {
    let admin = Admin { report, registry: Arc::new(registry), backends };
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/state", get(state))
        .route("/explain/{namespace}/{name}", get(explain_service))
        .with_state(admin);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(error = %ErrorChain(&error), "the admin endpoint ended");
        }
    })
}

/// 200 from the first complete round on, even if the source fails later, since
/// what is served goes on. Lists the problems in any case.
async fn readyz(State(admin): State<Admin>) -> Response {
    let report = admin.report.borrow();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = if report.ready { "ready\n" } else { "waiting for the first whole snapshot\n" }.to_owned();
    for problem in &report.problems {
        text.push_str(&format!("{problem}\n"));
    }
    (status, text).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorChain(&error).to_string()).into_response(),
    }
}

async fn state(State(admin): State<Admin>) -> Json<Report> {
    Json(admin.report.borrow().clone())
}

async fn explain_service(
    State(admin): State<Admin>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let name = ServiceName::new(namespace, name);
    let text = explain(&admin.report.borrow(), &admin.backends, &name);
    text.map_or_else(
        || {
            let text = format!(
                "this agent does not serve Service {name}: it does not exist, is not of type LoadBalancer, or has another class or namespace\n"
            );
            (StatusCode::NOT_FOUND, text).into_response()
        },
        IntoResponse::into_response,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_becomes_free_is_bound() {
        let dying = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = dying.local_addr().unwrap();
        let (bound, ()) = tokio::join!(bind(address, None), async {
            // The first try of `bind` has failed by then.
            tokio::task::yield_now().await;
            drop(dying);
        });
        assert_eq!(bound.unwrap().local_addr().unwrap(), address);
    }
}
