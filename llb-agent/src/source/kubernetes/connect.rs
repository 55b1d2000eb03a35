// SPDX-License-Identifier: Apache-2.0
//! Makes a client from flags and kubeconfig. Opens no connection yet.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use kube::client::AuthError;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::net::lookup_host;

use super::timeouts::{CONNECT_TIMEOUT, READ_TIMEOUT, RESOLVE_TIMEOUT};
use crate::kube_error::KubeError;
use crate::source::saved;

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no kubeconfig and no ServiceAccount.
    #[error(
        "cannot find a cluster: tried {tried}; give --kubeconfig FILE, or --manifests DIR to run without a cluster"
    )]
    NoKubeconfig {
        /// The places.
        tried: String,
        /// Why the last place has none.
        #[source]
        source: InClusterError,
    },
    /// `--context` was given, but there is no kubeconfig.
    #[error(
        "--context {context}: there is no kubeconfig: tried {tried}; give --kubeconfig FILE, or remove --context"
    )]
    ContextWithoutKubeconfig {
        /// As given.
        context: String,
        /// The places.
        tried: String,
    },
    /// The kubeconfig cannot be read.
    #[error("cannot read the kubeconfig {from}")]
    Unreadable {
        /// The file, or the places that were tried.
        from: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The CA of the cluster is not in PEM.
    #[error(
        "there is no certificate in {ca}, so no API server could be trusted; it must be PEM, \
         which begins with -----BEGIN CERTIFICATE-----"
    )]
    NoCertificate {
        /// Where the CA comes from.
        ca: String,
    },
    /// The command that gives the credentials cannot be run.
    #[error(
        "cannot run the command {command:?} that gives the credentials (exec in the kubeconfig); \
         looked for it {searched}; install it, or write its whole path"
    )]
    ExecPlugin {
        /// The command.
        command: String,
        /// Where it was looked for.
        searched: String,
        /// Why.
        #[source]
        source: KubeError,
    },
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {from}")]
    Kubeconfig {
        /// The file, or the places that were tried.
        from: String,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The client refuses the configuration, usually because of TLS.
    #[error("cannot make a client for {url}")]
    Client {
        /// The API server.
        url: String,
        /// Why.
        #[source]
        source: KubeError,
    },
}

/// The configured cluster.
#[derive(Clone)]
pub struct Cluster {
    /// A client of its API.
    pub client: Client,
    /// The URL of the API server.
    pub url: String,
    /// Its host and port.
    host: (String, u16),
    /// Which CA the API server's certificate is checked against, for messages.
    pub ca: String,
    /// Distinguishes it from other clusters, even from one that had the same URL before.
    pub identity: String,
}

/// The environment variables that matter.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// `$KUBECONFIG`.
    pub kubeconfig: Option<String>,
    /// `$PATH`.
    pub path: Option<String>,
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
    let (mut config, ca) = configuration(kubeconfig, context, variables.kubeconfig).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    let url = config.cluster_url.to_string();
    // The client accepts a CA without certificates, and then trusts nobody.
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        return Err(ConnectError::NoCertificate { ca });
    }
    if config.accept_invalid_certs {
        tracing::warn!(
            url,
            "insecure-skip-tls-verify is set in the kubeconfig: the API server's certificate is not checked, \
             and anybody on the way to it can pose as it"
        );
    }
    let identity = saved::identity(&url, config.root_cert.as_deref().unwrap_or_default());
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let host = (host, config.cluster_url.port_u16().unwrap_or(443));
    let command = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
    let client = Client::try_from(config).map_err(|error| match (&error, command) {
        (kube::Error::Auth(AuthError::AuthExecStart(_)), Some(command)) => {
            let searched = searched(&command, variables.path.as_deref());
            ConnectError::ExecPlugin { command, searched, source: error.into() }
        }
        _ => ConnectError::Client { url: url.clone(), source: error.into() },
    })?;
    Ok(Cluster { client, url, ca, host, identity })
}

impl Cluster {
    /// The addresses of the API server's name now; none if it cannot be resolved within `RESOLVE_TIMEOUT`.
    pub async fn addresses(&self) -> Vec<IpAddr> {
        let (name, port) = &self.host;
        let found = tokio::time::timeout(RESOLVE_TIMEOUT, lookup_host((name.as_str(), *port))).await;
        match found {
            Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    name,
                    "cannot resolve the name of the API server, so a Service could ask for its address"
                );
                Vec::new()
            }
        }
    }
}

/// The configuration of the client, and where its CA comes from.
async fn configuration(
    kubeconfig: Option<&PathBuf>,
    context: Option<String>,
    variable: Option<String>,
) -> Result<(Config, String), ConnectError> {
    let places = match &variable {
        Some(path) => format!("$KUBECONFIG ({path})"),
        None => "$KUBECONFIG (not set), ~/.kube/config, and the ServiceAccount of a Pod".to_owned(),
    };
    let (file, from) = match kubeconfig {
        Some(path) => (Kubeconfig::read_from(path), path.display().to_string()),
        None if variable.is_some() => (Kubeconfig::read(), places.clone()),
        None => (Kubeconfig::read(), "~/.kube/config".to_owned()),
    };
    let wrong = |error| match error {
        KubeconfigError::ReadConfig(source, _) => ConnectError::Unreadable { from: from.clone(), source },
        other => ConnectError::Kubeconfig { from: from.clone(), source: Box::new(other) },
    };
    let file = match file {
        Ok(file) => file,
        Err(error) if kubeconfig.is_none() && variable.is_none() && is_absent(&error) => {
            if let Some(context) = context {
                return Err(ConnectError::ContextWithoutKubeconfig { context, tried: places });
            }
            let config =
                Config::incluster().map_err(|source| ConnectError::NoKubeconfig { tried: places, source })?;
            return Ok((config, "the ca.crt of the Pod's ServiceAccount".to_owned()));
        }
        Err(error) => return Err(wrong(error)),
    };
    let ca = ca_of(&file, context.as_deref(), &from);
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?;
    Ok((config, ca))
}

/// Where the kubeconfig has the CA of the cluster of this context, or of the current one.
fn ca_of(file: &Kubeconfig, context: Option<&str>, from: &str) -> String {
    let wanted = context.or(file.current_context.as_deref());
    let context = file.contexts.iter().find(|context| Some(context.name.as_str()) == wanted);
    let name = context.and_then(|context| Some(&context.context.as_ref()?.cluster));
    let named = file.clusters.iter().find(|cluster| Some(&cluster.name) == name);
    let Some((name, cluster)) = named.and_then(|named| Some((&named.name, named.cluster.as_ref()?))) else {
        return format!("the CA of {from}");
    };
    match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(_), _) => format!("certificate-authority-data of cluster {name} in {from}"),
        (None, Some(path)) => format!("{path}, the certificate-authority of cluster {name} in {from}"),
        (None, None) => "the CAs of this machine (the kubeconfig names none)".to_owned(),
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

/// Whether there is no kubeconfig. If there is one that cannot be read, no other place is
/// tried: the agent could serve another cluster, or report a misleading error.
fn is_absent(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_places_are_tried_only_if_there_is_no_kubeconfig() {
        let error = |kind: io::ErrorKind| KubeconfigError::ReadConfig(kind.into(), PathBuf::from("/k"));
        assert!(is_absent(&KubeconfigError::FindPath));
        assert!(is_absent(&error(io::ErrorKind::NotFound)));
        assert!(!is_absent(&error(io::ErrorKind::PermissionDenied)));
    }

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
        result.map_err(|error| crate::error_chain::ErrorChain(&error).to_string())
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
        assert_eq!(cluster.ca, "the CAs of this machine (the kubeconfig names none)");
    }

    #[tokio::test]
    async fn a_missing_file_is_named_once() {
        let path = PathBuf::from("/no/such/kubeconfig");
        let error = connect(Some(&path), None, Variables::default()).await.err().unwrap();
        let error = crate::error_chain::ErrorChain(&error).to_string();
        assert_eq!(
            error,
            "cannot read the kubeconfig /no/such/kubeconfig: No such file or directory (os error 2)"
        );
    }
}
