// SPDX-License-Identifier: Apache-2.0
//! The objects that an agent would start with, read by the same sources; and other answers of the cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::super::facts::Source;
use crate::agent::serve::{interest, pool_map};
use crate::config::{Config, ConfigMapName, SourceConfig, kubeconfig_variable, proxy_variables, search_path};
use crate::error_chain::ErrorChain;
use crate::model::{LeaseName, SourceReport};
use crate::rbac;
use crate::source::{
    Cluster, KubernetesSource, ManifestSource, ProxyVariables, SavedSnapshots, Variables, connect, inspect,
};

/// How long the lists of the cluster, or the reading of files, may take.
const LIMIT: Duration = Duration::from_secs(10);
/// A folder that is never there.
const NO_FOLDER: &str = "/nonexistent";

pub(super) async fn read(config: &Config) -> Source {
    match &config.source {
        SourceConfig::Manifests(path) => manifests(config, path).await,
        SourceConfig::Kubernetes { kubeconfig, context, lease, config_map } => {
            let (https, http, no) = proxy_variables();
            let proxies = ProxyVariables { https, http, no };
            let variables = Variables { kubeconfig: kubeconfig_variable(), path: search_path(), proxies };
            match connect(kubeconfig.as_ref(), context.clone(), variables).await {
                Ok(cluster) => of_cluster(config, &cluster, lease.as_ref(), config_map.as_ref()).await,
                Err(error) => Source { failure: Some(ErrorChain(&error).to_string()), ..Source::default() },
            }
        }
    }
}

async fn manifests(config: &Config, path: &Path) -> Source {
    let place = path.display().to_string();
    let (_wanted, interest) = watch::channel(interest(&config.policy, 0, None));
    let source = match ManifestSource::start(path, interest) {
        Ok(source) => source,
        Err(error) => {
            return Source { place, failure: Some(ErrorChain(&error).to_string()), ..Source::default() };
        }
    };
    let (reports, received) = watch::channel(SourceReport::default());
    let running = tokio::spawn(source.run(reports));
    let source = first_report(place, received).await;
    running.abort();
    source
}

async fn of_cluster(
    config: &Config,
    cluster: &Cluster,
    lease: Option<&LeaseName>,
    config_map: Option<&ConfigMapName>,
) -> Source {
    let place = cluster.url();
    let rights = rbac::rights(&config.policy.namespaces, lease, config_map);
    let inspection = inspect(cluster, rights).await;
    if inspection.refusal.is_some() {
        return Source { place, inspection: Some(inspection), ..Source::default() };
    }
    // It saves nothing, since this process is not in charge. It reads nothing saved, since that may be old.
    let (_in_charge, is_in_charge) = watch::channel(false);
    let saved = SavedSnapshots::new(Path::new(NO_FOLDER), cluster.identity(), is_in_charge);
    let (_wanted, interest) = watch::channel(interest(&config.policy, 0, config_map.cloned().map(pool_map)));
    let source = KubernetesSource::start(cluster, interest, saved);
    let mut resolved = source.api_servers();
    let (reports, received) = watch::channel(SourceReport::default());
    let running = tokio::spawn(source.run(reports));
    let source = first_report(place, received).await;
    // The address is known by now, unless the name servers do not answer.
    let api_servers: BTreeSet<IpAddr> = resolved.borrow_and_update().keys().copied().collect();
    running.abort();
    Source { inspection: Some(inspection), api_servers, ..source }
}

/// Waits for the first whole snapshot, or for the reason why there is none.
async fn first_report(place: String, mut received: watch::Receiver<SourceReport>) -> Source {
    let is_enough = |report: &SourceReport| report.snapshot.is_some() || !report.problems.is_empty();
    // In either case the last report counts.
    let _ = tokio::time::timeout(LIMIT, received.wait_for(is_enough)).await;
    let report = received.borrow().clone();
    let own = report.snapshot.iter().flat_map(|snapshot| &snapshot.problems);
    let problems = report.problems.iter().chain(own).map(ToString::to_string).collect();
    Source { place, snapshot: report.snapshot, problems, ..Source::default() }
}
