// SPDX-License-Identifier: Apache-2.0
//! `llb-agent explain`: asks the running agent about a Service and prints the
//! answer, which `crate::explain` writes.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Asks the agent behind `admin` and prints its answer.
///
/// # Errors
/// Nobody answers, or the agent does not serve that Service.
pub(super) async fn ask(admin: SocketAddr, service: &str) -> anyhow::Result<()> {
    ensure!(
        service.split_once('/').is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty()),
        "{service:?}: name the Service as NAMESPACE/NAME"
    );
    print!("{}", page(admin, &format!("/explain/{service}")).await?);
    Ok(())
}

/// A page of the agent behind `admin`, as text.
///
/// # Errors
/// Nobody answers, or the status is not 2xx; the error then has the text of the answer.
pub(super) async fn page(admin: SocketAddr, path: &str) -> anyhow::Result<String> {
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
        .with_context(|| format!("{path:?} is no page of an agent"))?;
    let response = sender.send_request(request).await.with_context(no_answer)?;
    let status = response.status();
    let body = response.into_body().collect().await.with_context(no_answer)?.to_bytes();
    connection.abort();
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        bail!("{}", text.trim_end());
    }
    Ok(text)
}
