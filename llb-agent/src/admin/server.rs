// SPDX-License-Identifier: Apache-2.0
//! The connections of the admin endpoint: how many, for how long, and which are refused. Each
//! connection has one request. What is answered is not its business.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::host;
use super::listener::{Listener, Stream};
use crate::error_chain::ErrorChain;

/// What bounds the connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most connections at one time; further ones are answered 503.
    pub(super) connections: usize,
    /// How long a client may take to send its request.
    pub(super) request: Duration,
    /// How long a connection may last, request and answer together.
    pub(super) connection: Duration,
}

/// Those who ask are a person, a monitoring system and the kubelet.
pub(super) const LIMITS: Limits =
    Limits { connections: 32, request: Duration::from_secs(5), connection: Duration::from_secs(30) };

/// The most connections that are being answered 503; beyond them, connections are closed without an answer.
const REFUSALS: usize = 32;

/// How long a client may take to read a refusal.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// The largest request.
const REQUEST_BYTES: usize = 16 << 10;

/// After a failure to accept a connection, which most often means that there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Counts what was refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Family<Labels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Reason {
    Host,
    TooManyConnections,
    SlowRequest,
    SlowReader,
}

impl Refused {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let refused = Self::default();
        let help = "Requests to the admin endpoint that were refused or given up, by reason";
        registry.register("llb_admin_refused_requests", help, refused.0.clone());
        refused
    }

    fn count(&self, reason: Reason) {
        self.0.get_or_create(&Labels { reason }).inc();
    }
}

/// Accepts connections until the task is aborted.
pub(super) async fn run<L: Listener>(listener: L, routes: Router, limits: Limits, refused: Refused) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "the admin endpoint cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let (routes, refused) = (routes.clone(), refused.clone());
            tokio::spawn(async move {
                answer(stream, routes, limits, refused).await;
                drop(place);
            });
            continue;
        }
        refused.count(Reason::TooManyConnections);
        if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
            tokio::spawn(async move {
                refuse(stream, StatusCode::SERVICE_UNAVAILABLE, "too many connections; try again later")
                    .await;
                drop(place);
            });
        }
    }
}

/// Answers one request.
async fn answer(stream: impl Stream, routes: Router, limits: Limits, refused: Refused) {
    // It fails only if the client is gone.
    let Ok(called) = stream.called() else { return };
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: Request<Incoming>| {
        Box::pin(respond(request, called, routes.clone(), refused.clone()))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(REQUEST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let ended =
        timeout(limits.connection, poll_fn(|context| connection.poll_without_shutdown(context))).await;
    let is_slow = match ended {
        Err(_) => return refused.count(Reason::SlowReader),
        Ok(Err(error)) => error.is_timeout(),
        Ok(Ok(())) => false,
    };
    let mut stream = connection.into_parts().io.into_inner();
    if is_slow {
        refused.count(Reason::SlowRequest);
        refuse(stream, StatusCode::REQUEST_TIMEOUT, "the request did not come in time").await;
    } else {
        // It fails only if the client is gone.
        let _ = stream.shutdown().await;
    }
}

async fn respond(
    request: Request<Incoming>,
    called: Option<IpAddr>,
    routes: TowerToHyperService<Router>,
    refused: Refused,
) -> Result<Response<Body>, Infallible> {
    // No browser calls a path.
    let Some(local) = called else { return routes.call(request).await };
    match host::check(request.version(), request.uri(), request.headers(), local) {
        Ok(()) => routes.call(request).await,
        Err(status) => {
            refused.count(Reason::Host);
            let text = format!("call llb's admin endpoint as localhost or by the address {local}\n");
            Ok((status, text).into_response())
        }
    }
}

/// Answers without looking at the request. Reads on for a moment: closing with unread bytes would
/// reset the connection, and the client might never see the answer.
async fn refuse(mut stream: impl Stream, status: StatusCode, text: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{text}\n",
        text.len() + 1
    );
    let said = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 1024];
        while stream.read(&mut ignored).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Either way the connection is closed.
    let _ = timeout(REFUSAL_LIMIT, said).await;
}
