// SPDX-License-Identifier: Apache-2.0
//! Makes one check: connects, and asks if the check is more than a connection.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::clock;
use crate::model::{Check, Failure, HealthCheck, Verdict};

/// The most bytes of an answer's head that are read.
const HEAD_BYTES: usize = 16 * 1024;

/// The result of one check; `timeout` is for all of it.
pub(super) async fn probe(check: &Check, timeout: Duration) -> Verdict {
    let deadline = clock::now() + timeout;
    let connecting = tokio::time::timeout_at(deadline, TcpStream::connect(check.address)).await;
    let Ok(Ok(stream)) = connecting else { return Verdict::Unhealthy(Failure::NoConnection) };
    let HealthCheck::Http(path) = &check.how else { return Verdict::Healthy };
    match tokio::time::timeout_at(deadline, status(stream, check.address, path)).await {
        Ok(Some(200..=399)) => Verdict::Healthy,
        Ok(Some(status)) => Verdict::Unhealthy(Failure::Status(status)),
        Ok(None) | Err(_) => Verdict::Unhealthy(Failure::NoAnswer),
    }
}

/// The status of the answer; `None` if there is no proper one. Why does not matter: the backend is at fault.
async fn status(stream: TcpStream, address: SocketAddr, path: &str) -> Option<u16> {
    let mut builder = http1::Builder::new();
    let connecting = builder.max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream));
    let (mut sender, connection) = connecting.await.ok()?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, concat!("llb/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(sender.send_request(request));
    let mut has_ended = false;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Some(answer.ok()?.status().as_u16()),
            // The answer is there, or an error.
            _ = &mut connection, if !has_ended => has_ended = true,
        }
    }
}
