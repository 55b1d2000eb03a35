// SPDX-License-Identifier: Apache-2.0
//! From flags and kubeconfig to a client.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::net::lookup_host;

use super::timeouts::{CONNECT_TIMEOUT, READ_TIMEOUT, RESOLVE_TIMEOUT};
use crate::kube_error::KubeError;
use crate::source::saved;

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing tells where the cluster is.
    #[error(
        "no cluster is known: tried {tried}; give --kubeconfig FILE, or --manifests DIR to run without a cluster"
    )]
    NoKubeconfig {
        /// The places.
        tried: String,
        /// What the last one said.
        #[source]
        source: InClusterError,
    },
    /// `--context` chooses in a file that is not there.
    #[error(
        "--context {context}: there is no kubeconfig that could have it: tried {tried}; give --kubeconfig FILE, or leave --context away"
    )]
    ContextWithoutKubeconfig {
        /// As given.
        context: String,
        /// The places.
        tried: String,
    },
    /// `--kubeconfig`, or the one that was found.
    #[error("cannot use the kubeconfig {from}")]
    Kubeconfig {
        /// The file, or where it was searched for.
        from: String,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// TLS, mostly.
    #[error("cannot make a client for {url}")]
    Client {
        /// The API server.
        url: String,
        /// Why.
        #[source]
        source: KubeError,
    },
}

/// A cluster, as the configuration names it.
#[derive(Clone)]
pub struct Cluster {
    /// Talks to its API.
    pub client: Client,
    /// The API server.
    pub url: String,
    /// Its host and port.
    host: (String, u16),
    /// Tells it from any other cluster, also from one that had its URL before.
    pub identity: String,
}

/// A client by `--kubeconfig`, else `$KUBECONFIG` (`variable`), `~/.kube/config`,
/// and the Pod's ServiceAccount. Opens no connection yet.
///
/// # Errors
/// Names the file or the places, and what is wrong.
pub async fn connect(
    kubeconfig: Option<&PathBuf>,
    context: Option<String>,
    variable: Option<String>,
) -> Result<Cluster, ConnectError> {
    let places = match &variable {
        Some(path) => format!("$KUBECONFIG ({path})"),
        None => "$KUBECONFIG (not set), ~/.kube/config, and the ServiceAccount of a Pod".to_owned(),
    };
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let wrong = |from: &str| {
        let from = from.to_owned();
        move |source| ConnectError::Kubeconfig { from, source: Box::new(source) }
    };
    let mut config = match kubeconfig {
        Some(path) => {
            let shown = path.display().to_string();
            let file = Kubeconfig::read_from(path).map_err(wrong(&shown))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(wrong(&shown))?
        }
        None => match Kubeconfig::read() {
            Ok(file) => Config::from_custom_kubeconfig(file, &options).await.map_err(wrong(&places))?,
            Err(error) if variable.is_none() && is_absent(&error) => {
                if let Some(context) = options.context {
                    return Err(ConnectError::ContextWithoutKubeconfig { context, tried: places });
                }
                Config::incluster().map_err(|source| ConnectError::NoKubeconfig { tried: places, source })?
            }
            Err(source) => return Err(wrong(&places)(source)),
        },
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    let url = config.cluster_url.to_string();
    let identity = saved::identity(&url, config.root_cert.as_deref().unwrap_or_default());
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let host = (host, config.cluster_url.port_u16().unwrap_or(443));
    let failed = |source| ConnectError::Client { url: url.clone(), source: KubeError::from(source) };
    let client = Client::try_from(config).map_err(failed)?;
    Ok(Cluster { client, url, host, identity })
}

impl Cluster {
    /// Where the API server is, as its name is resolved now; nothing if that can't be done in `RESOLVE_TIMEOUT`.
    pub async fn addresses(&self) -> Vec<IpAddr> {
        let (name, port) = &self.host;
        let found = tokio::time::timeout(RESOLVE_TIMEOUT, lookup_host((name.as_str(), *port))).await;
        match found {
            Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    name,
                    "the address of the API server is not known, so no VIP is compared with it"
                );
                Vec::new()
            }
        }
    }
}

/// There is none. One that can't be read is not passed over: the agent would
/// serve another cluster, or complain of something else.
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
    fn only_a_kubeconfig_that_is_not_there_is_passed_over() {
        let error = |kind: io::ErrorKind| KubeconfigError::ReadConfig(kind.into(), PathBuf::from("/k"));
        assert!(is_absent(&KubeconfigError::FindPath));
        assert!(is_absent(&error(io::ErrorKind::NotFound)));
        assert!(!is_absent(&error(io::ErrorKind::PermissionDenied)));
    }
}
