// SPDX-License-Identifier: Apache-2.0
//! One question to a running agent's admin endpoint.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::AdminTarget;
use crate::model::LeaseName;

/// The status and the body of the answer to `GET path`.
///
/// # Errors
/// Nobody answers.
pub(super) async fn get(admin: &AdminTarget, path: &str) -> anyhow::Result<(StatusCode, String)> {
    match admin {
        AdminTarget::Address(address) => ask_address(*address, path).await,
        AdminTarget::Socket(socket) => ask_socket(socket, path).await,
        AdminTarget::Usual { socket, address } => match UnixStream::connect(socket).await {
            Ok(stream) => question(stream, &socket.display().to_string(), "localhost", path).await,
            Err(error) => {
                let answer = ask_address(*address, path).await;
                // Who may not use the socket should be told so, not that nobody listens elsewhere.
                if error.kind() == io::ErrorKind::PermissionDenied && answer.is_err() {
                    return Err(not_reached(error, socket));
                }
                answer
            }
        },
    }
}

async fn ask_address(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("no agent answers at {address}; start it, or name its --admin address"))?;
    question(stream, &address.to_string(), &address.to_string(), path).await
}

async fn ask_socket(socket: &Path, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = UnixStream::connect(socket).await.map_err(|error| not_reached(error, socket))?;
    question(stream, &socket.display().to_string(), "localhost", path).await
}

fn not_reached(error: io::Error, path: &Path) -> anyhow::Error {
    let path = path.display();
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{path} is for the agent's user and group; become a member of the group, or use sudo")
        }
        _ => format!("no agent answers at {path}; start it, or name its --admin-socket"),
    };
    anyhow::Error::from(error).context(advice)
}

/// The answer to one request; `who` names the agent in errors.
async fn question(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    who: &str,
    host: &str,
    path: &str,
) -> anyhow::Result<(StatusCode, String)> {
    let no_answer = || format!("the agent at {who} did not answer");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .with_context(no_answer)?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", host)
        .body(Empty::new())
        .with_context(|| format!("{path:?} is not a valid path"))?;
    let response = sender.send_request(request).await.with_context(no_answer)?;
    let status = response.status();
    let body = response.into_body().collect().await.with_context(no_answer)?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A page as text.
///
/// # Errors
/// Nobody answers, or the status is not 2xx; the error then has the text of the answer.
pub(super) async fn page(admin: &AdminTarget, path: &str) -> anyhow::Result<String> {
    let (status, text) = get(admin, path).await?;
    anyhow::ensure!(status.is_success(), "{}", text.trim_end());
    Ok(text)
}

/// Looks whether a Service can have this name. Such names have the form of names of Leases.
///
/// # Errors
/// It is not NAMESPACE/NAME.
pub(super) fn check_name(service: &str) -> anyhow::Result<()> {
    let is_name = service.parse::<LeaseName>().is_ok();
    anyhow::ensure!(
        is_name,
        "{service:?}: name the Service as NAMESPACE/NAME, as in default/web, with small letters, digits, - and . only"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_does_not_become_another_path() {
        for name in ["default/web", "shop-1/db.primary", "1/2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for text in
            ["web", "../services", "default/..", "./web", "default/", "/web", "a/b/c", "a/b?c", "a/B", "-a/b"]
        {
            let error = check_name(text).unwrap_err().to_string();
            assert!(error.contains("name the Service as NAMESPACE/NAME"), "{error}");
        }
    }
}
