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

use super::exchange::{Answer, NAME, drive};
use super::grpc;
use crate::clock;
use crate::model::{Check, Failure, HealthCheck, Verdict};

/// The most bytes of an answer's head that are read.
const HEAD_BYTES: usize = 16 * 1024;

/// The result of one check; `timeout` is for all of it.
pub(super) async fn probe(check: &Check, timeout: Duration) -> Verdict {
    let deadline = clock::now() + timeout;
    let connecting = tokio::time::timeout_at(deadline, TcpStream::connect(check.address)).await;
    let Ok(Ok(stream)) = connecting else { return Verdict::Unhealthy(Failure::NoConnection) };
    let asking = async {
        match &check.how {
            HealthCheck::Tcp => Ok(()),
            HealthCheck::Http(path) => get(stream, check.address, path).await,
            HealthCheck::Grpc(service) => grpc::ask(stream, check.address, service).await,
        }
    };
    let answer = tokio::time::timeout_at(deadline, asking).await.unwrap_or(Err(Failure::NoAnswer));
    answer.map_or_else(Verdict::Unhealthy, |()| Verdict::Healthy)
}

/// Why there is no proper answer does not matter: the backend is at fault.
async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Answer {
    let mut builder = http1::Builder::new();
    let connecting = builder.max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connecting.map_err(|_| Failure::NoAnswer)?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, NAME)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Failure::NoAnswer)?;
    let asking = async { sender.send_request(request).await.map_err(|_| Failure::NoAnswer) };
    match drive(connection, asking).await?.status().as_u16() {
        200..=399 => Ok(()),
        status => Err(Failure::Status(status)),
    }
}
