// SPDX-License-Identifier: Apache-2.0
//! The admin endpoint: /healthz, /readyz, /metrics, /state, /explain. Reads only.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

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

/// The address can't be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on --admin {address}; choose another one")]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Binds `address`; port 0 means any. A predecessor's listener is taken
/// instead if it is there.
///
/// # Errors
/// The address is in use, or not of this machine.
pub async fn bind(
    address: SocketAddr,
    inherited: Option<(SocketAddr, OwnedFd)>,
) -> Result<TcpListener, AdminError> {
    let bound = match inherited {
        Some((there, socket)) if there == address => TcpListener::from_std(socket.into()),
        _ => TcpListener::bind(address).await,
    };
    bound.map_err(|source| AdminError { address, source })
}

/// Serves until the task is aborted; open connections then go on.
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
            tracing::error!(%error, "the admin endpoint ended");
        }
    })
}

/// 200 once a first round is done, and from then on: what is served goes on
/// whatever happens to the source. Problems are named in any case.
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
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
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
                "Service {name} is none of this agent's: it is not there, not of type LoadBalancer, or of another class or namespace\n"
            );
            (StatusCode::NOT_FOUND, text).into_response()
        },
        IntoResponse::into_response,
    )
}
