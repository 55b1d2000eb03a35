// SPDX-License-Identifier: Apache-2.0
//! The verb exec: HTTPS and WebSockets, as the API server passes them on to a kubelet that declares
//! `ExtendWebSocketsToKubelet`. The subprotocol is `v5.channel.k8s.io`: the first byte of each message is its channel.
//!
//! A command runs in the Pod's network namespace, with the files and programs of this machine. There is no DNS in the
//! lab: the Services of the Pod's namespace are in its `/etc/hosts`.

use std::fmt::Write as _;
use std::fs;
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Api, Client};
use llb_tests::Host;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{spawn_blocking, spawn_local};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::node::{Node, PORT};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;

/// Runs the command `"$@"` with the file `$0` as `/etc/hosts`.
const WITH_HOSTS: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

pub(super) struct Server {
    node: Arc<Node>,
    client: Client,
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Server {
    pub(super) async fn bind(node: Arc<Node>, client: Client) -> Result<Self> {
        // The API server does not check a kubelet's certificate unless it has a CA for it.
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([node.host.name().to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        let listener = TcpListener::bind(node.host.at(PORT)).await.context("the port of the kubelet")?;
        Ok(Self { node, client, listener, tls: TlsAcceptor::from(Arc::new(config)) })
    }

    pub(super) async fn serve(self) -> Result<()> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let (node, client, tls) = (Arc::clone(&self.node), self.client.clone(), self.tls.clone());
            spawn_local(async move {
                if let Err(error) = answer(&node, client, tls, stream).await {
                    eprintln!("exec on {}: {error:#}", node.host.name());
                }
            });
        }
    }
}

async fn answer(node: &Node, client: Client, tls: TlsAcceptor, stream: TcpStream) -> Result<()> {
    let stream = tls.accept(stream).await?;
    let mut uri = Uri::default();
    #[expect(clippy::result_large_err, reason = "the type is the crate's")]
    let take_uri = |request: &Request, mut response: Response| {
        uri = request.uri().clone();
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(PROTOCOL));
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, take_uri).await?;
    let (output, status) = match run(node, client, &uri).await {
        Ok(output) => {
            let status = status_of(&output);
            (output, status)
        }
        Err(error) => (
            Output { status: Default::default(), stdout: Vec::new(), stderr: Vec::new() },
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": format!("{error:#}")}),
        ),
    };
    let status = status.to_string().into_bytes();
    for (channel, content) in [(STDOUT, output.stdout), (STDERR, output.stderr), (ERROR, status)] {
        if !content.is_empty() {
            let message = [[channel].as_slice(), &content].concat();
            socket.send(Message::binary(message)).await?;
        }
    }
    // Without a code, the client takes the end for a failure.
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() })).await?;
    // The client closes in turn; its errors are of no interest any more.
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

/// Runs the command of `/exec/NAMESPACE/POD/CONTAINER?command=WORD&command=WORD...`.
async fn run(node: &Node, client: Client, uri: &Uri) -> Result<Output> {
    let mut parts = uri.path().split('/').skip(1);
    let (Some("exec"), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        anyhow::bail!("{} is not an exec", uri.path());
    };
    let key = (namespace.to_owned(), name.to_owned());
    let place = node.places().get(&key).cloned();
    let place = place.with_context(|| format!("Pod {namespace}/{name} does not run here"))?;
    let words: Vec<String> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.strip_prefix("command="))
        .map(decode)
        .collect();
    let hosts = node.host.directory().join(format!("hosts-{namespace}-{name}"));
    fs::write(&hosts, hosts_of(client, namespace).await?)?;
    // That of the image tries once.
    let wgetrc = node.host.directory().join("wgetrc");
    fs::write(&wgetrc, "tries = 1\n")?;
    let run = move |place: Host| {
        let mut command = place.command("unshare");
        command.args(["--mount", "--", "sh", "-c", WITH_HOSTS]).arg(hosts).args(words);
        command.env("WGETRC", wgetrc).stdin(std::process::Stdio::null()).output()
    };
    Ok(spawn_blocking(move || run(place)).await??)
}

/// The names of the Services as lines of `/etc/hosts`.
async fn hosts_of(client: Client, namespace: &str) -> Result<String> {
    let services: Api<Service> = Api::namespaced(client, namespace);
    let mut lines = "127.0.0.1 localhost\n".to_owned();
    for service in services.list(&ListParams::default()).await? {
        let name = service.metadata.name.unwrap_or_default();
        let address = service.spec.and_then(|spec| spec.cluster_ip).filter(|address| address != "None");
        if let Some(address) = address {
            writeln!(lines, "{address} {name} {name}.{namespace} {name}.{namespace}.svc.cluster.local")?;
        }
    }
    Ok(lines)
}

/// What a container runtime says about the end of a command.
fn status_of(output: &Output) -> Value {
    match output.status.code() {
        Some(0) => json!({"metadata": {}, "status": "Success"}),
        code => json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": "command terminated with non-zero exit code",
            "details": {"causes": [{"reason": "ExitCode", "message": code.unwrap_or(137).to_string()}]},
        }),
    }
}

/// Decodes one value of a query, in which `+` is a space.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
