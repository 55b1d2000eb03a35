// SPDX-License-Identifier: Apache-2.0
//! Why no client could be made: what is wrong, and with which file.

use std::io;

use kube::config::{InClusterError, KubeconfigError};

use crate::kube_error::KubeError;

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
    /// The proxy to the API server makes no sense.
    #[error(
        "cannot use the proxy {proxy:?} from {from}; write it as http://host:port, https://host:port or \
         socks5://host:port"
    )]
    Proxy {
        /// As given, without user and password.
        proxy: String,
        /// Where it was given.
        from: String,
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
