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
    let stream = TcpStream::connect(admin).await.with_context(|| {
        format!("no agent answers at {admin}; is it running, and is that its --admin address?")
    })?;
    let no_answer = || format!("the agent at {admin} did not answer");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .with_context(no_answer)?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("/explain/{service}"))
        .header("host", admin.to_string())
        .body(Empty::new())
        .with_context(|| format!("{service:?} is not a valid name of a Service"))?;
    let response = sender.send_request(request).await.with_context(no_answer)?;
    let status = response.status();
    let body = response.into_body().collect().await.with_context(no_answer)?.to_bytes();
    connection.abort();
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        bail!("{}", text.trim_end());
    }
    print!("{text}");
    Ok(())
}
