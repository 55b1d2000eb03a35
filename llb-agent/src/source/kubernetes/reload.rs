// SPDX-License-Identifier: Apache-2.0
//! Reads kubeconfig, CA and credentials again, and changes to them while everything goes on. If the new ones make
//! no sense, or lead to another cluster, the old ones stay in use.

use std::sync::Arc;
use std::time::Instant;

use kube::Client;

use super::configuration::Configuration;
use super::connect::{Cluster, Connection};
use super::connect_error::ConnectError;
use super::health::Health;
use super::probe::ask_for_identity;
use super::timeouts::{PROBE_AGAIN, PROBE_TIMEOUT, RELOAD_INTERVAL, RENEWAL_INTERVAL};
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::kube_error::KubeError;

/// For problems of this task.
const WHAT: &str = "the kubeconfig";

/// Keeps a cluster's connection up to date.
pub(super) struct Reloader {
    pub(super) cluster: Cluster,
    pub(super) health: Arc<Health>,
    /// When credentials were renewed last, which may run a command.
    pub(super) last_renewal: Instant,
    /// Whether the last look failed. A file that is being written may be incomplete once.
    pub(super) has_failed: bool,
}

impl Reloader {
    pub(super) fn new(cluster: Cluster, health: Arc<Health>) -> Self {
        Self { cluster, health, last_renewal: clock::now_std(), has_failed: false }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let is_refused = tokio::select! {
                () = tokio::time::sleep(RELOAD_INTERVAL) => false,
                () = self.health.refused.notified() => true,
            };
            let now = clock::now_std();
            match self.look(is_refused, now).await {
                Ok(()) => {
                    self.has_failed = false;
                    self.health.over(WHAT, now);
                }
                Err(_) if !self.has_failed => self.has_failed = true,
                Err(message) => self.health.refuses(WHAT, message, 3 * RELOAD_INTERVAL, now),
            }
            tokio::time::sleep(PROBE_AGAIN).await;
        }
    }

    pub(super) async fn look(&mut self, is_refused: bool, now: Instant) -> Result<(), String> {
        let unusable = |error: ConnectError| {
            format!("{}; the credentials that were read before stay in use", ErrorChain(&error))
        };
        let configuration = self.cluster.place.read().await.map_err(unusable)?;
        let current = self.cluster.current.load_full();
        let may_renew = now.saturating_duration_since(self.last_renewal) >= RENEWAL_INTERVAL;
        if !is_due(&current, &configuration, is_refused, may_renew, now) {
            return Ok(());
        }
        if current.is_renewable {
            self.last_renewal = now;
        }
        let variables = self.cluster.place.variables.clone();
        let connections = self.cluster.connections.clone();
        // It may run a command, and waits for its end.
        let made =
            tokio::task::spawn_blocking(move || Connection::new(configuration, &variables, &connections))
                .await;
        let candidate = made.map_err(|error| error.to_string())?.map_err(unusable)?;
        self.check(&current, &candidate).await?;
        tracing::info!(
            url = candidate.server.url,
            "the credentials were read again, and are used from now on"
        );
        self.health.set_server(candidate.server.clone());
        self.cluster.identity.send_if_modified(|identity| {
            let differs = identity.url != candidate.server.url;
            identity.url.clone_from(&candidate.server.url);
            differs
        });
        self.cluster.current.store(Arc::new(candidate));
        Ok(())
    }

    /// Whether the candidate leads to the same cluster. The same URL does; what is behind it is the probe's matter.
    async fn check(&self, current: &Connection, candidate: &Connection) -> Result<(), String> {
        let url = &candidate.server.url;
        if *url == current.server.url {
            return Ok(());
        }
        let known = self.cluster.identity.borrow().uid.clone();
        match (known, uid_of(&candidate.client).await) {
            (Some(known), Ok(Some(uid))) if known == uid => Ok(()),
            (Some(_), Ok(Some(_))) => Err(format!(
                "the kubeconfig now leads to another cluster, at {url}; this one stays in use: restart llb-agent to serve the other one"
            )),
            (_, Err(error)) => Err(format!(
                "the kubeconfig now names {url}, which does not answer: {}; the old URL stays in use until it does",
                ErrorChain(&error)
            )),
            (_, Ok(_)) => Err(format!(
                "the kubeconfig now names {url}, and llb may not find out whether that is the same cluster; the old URL stays in use: \
                 grant llb's user the verb list on namespace kube-system (`llb-agent rbac` prints all rights), or restart llb-agent"
            )),
        }
    }
}

/// `None` if it may not be read.
async fn uid_of(client: &Client) -> Result<Option<String>, KubeError> {
    let answer = tokio::time::timeout(PROBE_TIMEOUT, ask_for_identity(client)).await;
    match answer {
        Err(_) => Err(kube::Error::Service("no answer in time".into()).into()),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(answer)) => Ok(answer.uid),
    }
}

/// Whether to make a new connection. `may_renew`: it was a while ago that credentials were renewed.
fn is_due(
    current: &Connection,
    configuration: &Configuration,
    is_refused: bool,
    may_renew: bool,
    now: Instant,
) -> bool {
    let ends = current.renew_at.is_some_and(|renew_at| renew_at <= now);
    current.fingerprint != configuration.fingerprint
        || (current.is_renewable && may_renew && (is_refused || ends))
}
