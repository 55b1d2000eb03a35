// SPDX-License-Identifier: Apache-2.0
//! One question to a running agent's admin endpoint.

use std::net::SocketAddr;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The status and the body of the answer to `GET path`.
///
/// # Errors
/// Nobody answers.
pub(super) async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(admin).await.with_context(|| {
        format!("no agent answers at {admin}; is it running, and is that its --admin address?")
    })?;
    let no_answer = || format!("the agent at {admin} did not answer");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .with_context(no_answer)?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", admin.to_string())
        .body(Empty::new())
        .with_context(|| format!("{path:?} is not a valid path"))?;
    let response = sender.send_request(request).await.with_context(no_answer)?;
    let status = response.status();
    let body = response.into_body().collect().await.with_context(no_answer)?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The Service's name, if it is one.
///
/// # Errors
/// It is not NAMESPACE/NAME.
pub(super) fn check_name(service: &str) -> anyhow::Result<()> {
    let is_part = |part: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
        !part.is_empty() && part.chars().all(is_letter)
    };
    let is_name =
        service.split_once('/').is_some_and(|(namespace, name)| is_part(namespace) && is_part(name));
    anyhow::ensure!(is_name, "{service:?}: name the Service as NAMESPACE/NAME");
    Ok(())
}
