// SPDX-License-Identifier: Apache-2.0
//! Makes a client from flags and kubeconfig. Opens no connection yet.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

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
    /// The kubeconfig cannot be read or used.
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
    /// Distinguishes it from other clusters, even from one that had the same URL before.
    pub identity: String,
}

/// Makes a client from `--kubeconfig`, or else from `$KUBECONFIG` (`variable`), or else from
/// `~/.kube/config`, or else from the Pod's ServiceAccount. Opens no connection yet.
///
/// # Errors
/// Names the file or the places that were tried, and what is wrong.
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
}
