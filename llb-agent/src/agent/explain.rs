// SPDX-License-Identifier: Apache-2.0
//! `llb-agent explain`: asks the running agent about a Service and prints the
//! answer, which `crate::explain` writes.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::AdminTarget;

/// Asks the agent behind `admin` and prints its answer.
///
/// # Errors
/// Nobody answers, or the agent does not serve that Service.
pub(super) async fn ask(admin: AdminTarget, service: &str) -> anyhow::Result<()> {
    ensure!(
        service.split_once('/').is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty()),
        "{service:?}: name the Service as NAMESPACE/NAME"
    );
    let text = match admin {
        AdminTarget::Address(address) => ask_address(address, service).await?,
        AdminTarget::Socket(path) => ask_socket(&path, service).await?,
        AdminTarget::Usual { socket, address } => match UnixStream::connect(socket).await {
            Ok(stream) => question(stream, &socket.display().to_string(), "localhost", service).await?,
            Err(error) => {
                let answer = ask_address(address, service).await;
                // Who may not use the socket should be told so, not that nobody listens elsewhere.
                if error.kind() == io::ErrorKind::PermissionDenied && answer.is_err() {
                    return Err(not_reached(error, socket));
                }
                answer?
            }
        },
    };
    print!("{text}");
    Ok(())
}

async fn ask_address(address: SocketAddr, service: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await.with_context(|| {
        format!("no agent answers at {address}; is it running, and is that its --admin address?")
    })?;
    question(stream, &address.to_string(), &address.to_string(), service).await
}

async fn ask_socket(path: &Path, service: &str) -> anyhow::Result<String> {
    let stream = UnixStream::connect(path).await.map_err(|error| not_reached(error, path))?;
    question(stream, &path.display().to_string(), "localhost", service).await
}

fn not_reached(error: io::Error, path: &Path) -> anyhow::Error {
    let path = path.display();
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{path} is for the agent's user and group; become a member of the group, or use sudo")
        }
        _ => format!("no agent answers at {path}; is it running, and is that its --admin-socket?"),
    };
    anyhow::Error::from(error).context(advice)
}

/// The answer to one request; `who` names the agent in errors.
async fn question(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    who: &str,
    host: &str,
    service: &str,
) -> anyhow::Result<String> {
    let no_answer = || format!("the agent at {who} did not answer");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .with_context(no_answer)?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("/explain/{service}"))
        .header("host", host)
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
    Ok(text.into_owned())
}
