// SPDX-License-Identifier: Apache-2.0
//! The client of a cluster. It stays the same when credentials, CA or URL are read again (`reload.rs`): it sends
//! each request through the connection that is current then. Opens no connection by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{Request, Uri};
use k8s_openapi::jiff::Timestamp;
use kube::client::{AuthError, Body};
use kube::{Client, Config};
use tokio::sync::watch;

use super::cause::Server;
use super::configuration::{Configuration, Place, Variables};
use super::connect_error::ConnectError;
use super::connections::ApiConnections;
use super::proxy::{port_of, proxy_for};
use super::timeouts::RENEW_BEFORE;
use super::transport;
use crate::clock;
use crate::model::ReservedFor;
use crate::source::identity::Identity;

/// The configured cluster.
#[derive(Clone)]
pub struct Cluster {
    /// A client of its API.
    pub client: Client,
    /// The open connections of the client.
    pub connections: ApiConnections,
    pub(super) current: Arc<ArcSwap<Connection>>,
    pub(super) place: Place,
    /// What is known of it by now.
    pub(super) identity: Arc<watch::Sender<Identity>>,
}

/// A way to the API server.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) server: Server,
    /// The hosts that it needs.
    pub(super) hosts: Vec<Host>,
    pub(super) fingerprint: u64,
    /// A new connection may have other credentials, although the fingerprint is the same.
    pub(super) is_renewable: bool,
    /// When its credentials are to be renewed.
    pub(super) renew_at: Option<Instant>,
}

/// The host and port of a URL.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) what: ReservedFor,
}

/// Makes a client from `--kubeconfig`, or else from `$KUBECONFIG`, or else from
/// `~/.kube/config`, or else from the Pod's ServiceAccount. Opens no connection yet.
///
/// # Errors
/// Names the file or the places that were tried, and what is wrong.
pub async fn connect(
    kubeconfig: Option<&PathBuf>,
    context: Option<String>,
    variables: Variables,
) -> Result<Cluster, ConnectError> {
    let mut place = Place { kubeconfig: kubeconfig.cloned(), context, variables, in_pod: false };
    let configuration = place.read().await?;
    if configuration.config.accept_invalid_certs {
        tracing::warn!(
            url = %configuration.config.cluster_url,
            "insecure-skip-tls-verify is set in the kubeconfig: the API server's certificate is not checked, \
             and anybody on the way to it can pose as it"
        );
    }
    let connections = ApiConnections::default();
    let connection = Connection::new(configuration, &place.variables, &connections)?;
    let identity = Identity { url: connection.server.url.clone(), uid: None };
    let current = Arc::new(ArcSwap::from_pointee(connection));
    let client = following(current.clone());
    let identity = Arc::new(watch::Sender::new(identity));
    Ok(Cluster { client, connections, current, place, identity })
}

impl Cluster {
    /// The URL of the API server now.
    pub fn url(&self) -> String {
        self.server().url
    }

    pub(super) fn server(&self) -> Server {
        self.current.load().server.clone()
    }

    /// What is known of the cluster, from now on.
    pub fn identity(&self) -> watch::Receiver<Identity> {
        self.identity.subscribe()
    }
}

impl Connection {
    pub(super) fn new(
        configuration: Configuration,
        variables: &Variables,
        connections: &ApiConnections,
    ) -> Result<Self, ConnectError> {
        let Configuration { mut config, ca, proxy_url, fingerprint, is_renewable } = configuration;
        let url = config.cluster_url.clone();
        // The client accepts a CA without certificates, and then trusts nobody.
        if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConnectError::NoCertificate { ca });
        }
        let proxy = proxy_for(&url, proxy_url.as_deref(), &variables.proxies)?;
        // `transport` connects to the proxy.
        config.proxy_url = None;
        let failed = |error| why(error, &config, variables);
        let client = transport::client(&config, proxy.as_ref(), connections).map_err(failed)?;
        let renew_at = match config.auth_info.exec {
            Some(_) => renew_at(config.clone()).map_err(failed)?,
            None => None,
        };
        let mut hosts = vec![host(&url, ReservedFor::ApiServer)];
        hosts.extend(proxy.map(|proxy| host(proxy.uri(), ReservedFor::ApiProxy)));
        let server = Server { url: url.to_string(), ca };
        Ok(Self { client, server, hosts, fingerprint, is_renewable, renew_at })
    }
}

fn host(url: &Uri, what: ReservedFor) -> Host {
    let name = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Host { name, port: port_of(url), what }
}

/// Sends each request through the connection that is current then.
fn following(current: Arc<ArcSwap<Connection>>) -> Client {
    let send = move |request: Request<Body>| {
        let client = current.load().client.clone();
        async move { client.send(request).await }
    };
    // Every request names its namespace.
    Client::new(tower::service_fn(send), "default")
}

/// When the credentials that the command gave are to be renewed; `None` if they have no end. Only the client that
/// kube builds tells their end.
fn renew_at(config: Config) -> Result<Option<Instant>, kube::Error> {
    let Some(end) = *Client::try_from(config)?.valid_until() else { return Ok(None) };
    let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
    Ok(Some(clock::now_std() + left.saturating_sub(RENEW_BEFORE).max(left / 2)))
}

fn why(error: kube::Error, config: &Config, variables: &Variables) -> ConnectError {
    let command = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
    match (&error, command) {
        (kube::Error::Auth(AuthError::AuthExecStart(_)), Some(command)) => {
            let searched = searched(&command, variables.path.as_deref());
            ConnectError::ExecPlugin { command, searched, source: error.into() }
        }
        _ => ConnectError::Client { url: config.cluster_url.to_string(), source: error.into() },
    }
}

/// Where a command was looked for.
fn searched(command: &str, path: Option<&str>) -> String {
    match path {
        _ if command.contains('/') => "at this path".to_owned(),
        Some(path) => format!("in $PATH ({path})"),
        None => "in the default folders, because $PATH is not set".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::ErrorChain;

    /// A kubeconfig with these lines of its cluster and its user.
    async fn connect_with(cluster: &str, user: &str) -> Result<Cluster, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://192.0.2.1:6443'{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        let variables = Variables { path: Some("/opt/bin:/bin".to_owned()), ..Variables::default() };
        let result = connect(Some(&path), None, variables).await;
        result.map_err(|error| ErrorChain(&error).to_string())
    }

    #[tokio::test]
    async fn a_command_for_credentials_that_is_missing_is_named_with_its_place() {
        let exec = |command| {
            format!(
                "exec: {{apiVersion: client.authentication.k8s.io/v1, command: {command}, interactiveMode: Never}}"
            )
        };
        let error = connect_with("", &exec("no-such-plugin")).await.err().unwrap();
        assert!(error.contains("the command \"no-such-plugin\" that gives the credentials"), "{error}");
        assert!(error.contains("looked for it in $PATH (/opt/bin:/bin)"), "{error}");
        assert_eq!(error.matches("No such file").count(), 1, "{error}");
        let error = connect_with("", &exec("/no/such/plugin")).await.err().unwrap();
        assert!(error.contains("looked for it at this path"), "{error}");
    }

    #[tokio::test]
    async fn a_ca_without_a_certificate_is_refused() {
        // "garbage" in base64.
        let error = connect_with(", certificate-authority-data: Z2FyYmFnZQ==", "").await.err().unwrap();
        assert!(error.contains("no certificate in certificate-authority-data of cluster c in "), "{error}");
        let cluster = connect_with("", "").await.unwrap();
        assert_eq!(cluster.server().ca, "the CAs of this machine (the kubeconfig names none)");
    }

    #[tokio::test]
    async fn a_missing_file_is_named_once() {
        let path = PathBuf::from("/no/such/kubeconfig");
        let error = connect(Some(&path), None, Variables::default()).await.err().unwrap();
        let error = ErrorChain(&error).to_string();
        assert_eq!(
            error,
            "cannot read the kubeconfig /no/such/kubeconfig: No such file or directory (os error 2)"
        );
    }
}
