// SPDX-License-Identifier: Apache-2.0
//! Objects from a Kubernetes API, by reflectors: a list, then a watch, of
//! Services, EndpointSlices and Nodes.
//!
//! ```text
//! watch task per kind (and namespace) --> its Store, and one shared Notify
//! publisher: Notify, then a short wait for more --> convert all --> watch channel
//! ```
//!
//! A lost connection, an expired resource version or a restarted API server
//! only mean that a task starts over; its Store keeps the old objects until the
//! new list is whole, so nothing that is served changes. A start without a
//! whole list within [`PATIENCE`] publishes the saved snapshot until there is one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};

use super::convert;
use super::retries::{LAST_RETRY, Retries};
use super::saved::{self, Saved, SavedError, SavedSnapshots};
use crate::model::{Problem, ProblemReason, Snapshot, SourceReport, Subject};

/// Changes that come within this time after one another make one snapshot.
const SETTLE: Duration = Duration::from_millis(10);
/// A server that says nothing for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A start that has no whole list for so long serves the saved snapshot: long
/// enough for any list of a healthy API, short beside a client's patience.
const PATIENCE: Duration = Duration::from_secs(3);
/// The API server ends each watch after this time, so that a connection which
/// silently died is noticed soon after it.
const WATCH_SECS: u32 = 60;
/// Nothing was read for so long: longer than any healthy watch is silent.
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECS as u64 + 10);
/// A watch that is refused reports at least every `2 * LAST_RETRY + CONNECT_TIMEOUT`;
/// silence for longer means that it works again.
const RECOVERED_AFTER: Duration = Duration::from_secs(20);
/// The same for one that hangs: it reports only after the time-out.
const ANSWERS_AFTER: Duration =
    Duration::from_secs(READ_TIMEOUT.as_secs() + 2 * LAST_RETRY.as_secs() + CONNECT_TIMEOUT.as_secs());

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
        source: Box<kube::Error>,
    },
}

/// A cluster, as the configuration names it.
#[derive(Clone)]
pub struct Cluster {
    /// Talks to its API.
    pub client: Client,
    /// The API server.
    pub url: String,
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
    let failed = |source| ConnectError::Client { url: url.clone(), source: Box::new(source) };
    let client = Client::try_from(config).map_err(failed)?;
    Ok(Cluster { client, url, identity })
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

/// Follows a cluster.
#[derive(Debug)]
pub struct KubernetesSource {
    shared: Arc<Shared>,
    services: Vec<Store<Service>>,
    slices: Vec<Store<EndpointSlice>>,
    nodes: Store<Node>,
    saved: SavedSnapshots,
    converter: convert::Converter,
    tasks: JoinSet<()>,
}

/// What is served instead of a list that is not there.
#[derive(Default)]
struct Fallback {
    snapshot: Option<Arc<Snapshot>>,
    problem: Option<Problem>,
}

/// Between the watch tasks and the publisher.
#[derive(Debug, Default)]
struct Shared {
    changed: Notify,
    /// What fails, and when it works again if nothing more is heard.
    errors: Mutex<BTreeMap<String, (Instant, Problem)>>,
}

impl KubernetesSource {
    /// Starts the watches; `namespaces` narrows Services and EndpointSlices, empty means all.
    pub fn start(client: &Client, namespaces: &[String], saved: SavedSnapshots) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let nodes = follow(Api::<Node>::all(client.clone()), "nodes", &shared, &mut tasks);
        let services = apis(client, namespaces)
            .into_iter()
            .map(|api| follow(api, "services", &shared, &mut tasks))
            .collect();
        let slices = apis(client, namespaces)
            .into_iter()
            .map(|api| follow(api, "endpointslices.discovery.k8s.io", &shared, &mut tasks))
            .collect();
        Self { shared, services, slices, nodes, saved, converter: convert::Converter::default(), tasks }
    }

    /// Publishes snapshots until nobody listens any more.
    pub async fn run(mut self, out: watch::Sender<SourceReport>) {
        let (latest, kept) = watch::channel(None);
        self.tasks.spawn(self.saved.clone().keep(kept));
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        let (mut complete, mut fallback, mut defects) = (false, None, Vec::new());
        loop {
            complete = complete || self.is_complete();
            let mut report = self.report(complete, fallback.as_ref());
            report.problems.extend_from_slice(&defects);
            let live = report.snapshot.clone().filter(|_| complete);
            let mut changed = false;
            out.send_if_modified(|current| {
                changed = current.snapshot != report.snapshot;
                let news = changed || current.problems != report.problems;
                *current = report;
                news
            });
            if changed && live.is_some() {
                latest.send_replace(live);
            }
            tokio::select! {
                () = self.shared.changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(RECOVERED_AFTER) => {}
                () = &mut patience, if !complete && fallback.is_none() => fallback = Some(self.fall_back().await),
                Some(ended) = self.tasks.join_next() => defects.push(defect(ended)),
                () = out.closed() => return,
            }
        }
    }

    fn report(&mut self, complete: bool, fallback: Option<&Fallback>) -> SourceReport {
        let mut problems = self.shared.problems(Instant::now());
        if complete {
            return SourceReport { snapshot: Some(Arc::new(self.snapshot())), problems };
        }
        problems.extend(fallback.and_then(|fallback| fallback.problem.clone()));
        SourceReport { snapshot: fallback.and_then(|fallback| fallback.snapshot.clone()), problems }
    }

    /// The saved snapshot, or why there is none.
    async fn fall_back(&self) -> Fallback {
        let place = self.saved.clone();
        let problem = |reason, message| Problem {
            subject: Subject::Source("Kubernetes API".to_owned()),
            reason,
            message,
        };
        match tokio::task::spawn_blocking(move || place.load()).await {
            Ok(Ok(Saved { saved_at, snapshot, .. })) => {
                let message = format!("serving the saved snapshot of {saved_at} until the API answers");
                tracing::warn!(services = snapshot.services.len(), "{message}");
                let problem = problem(ProblemReason::SourceUnavailable, message);
                Fallback { snapshot: Some(Arc::new(snapshot)), problem: Some(problem) }
            }
            Ok(Err(error @ SavedError::Missing(_))) => {
                tracing::warn!(
                    "nothing is served until the API answers: there is no saved snapshot ({error})"
                );
                Fallback::default()
            }
            Ok(Err(error)) => {
                let message = match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                };
                let message =
                    format!("nothing is served until the API answers: the saved snapshot {message}");
                tracing::warn!("{message}");
                Fallback {
                    problem: Some(problem(ProblemReason::SavedSnapshotRefused, message)),
                    ..Fallback::default()
                }
            }
            Err(error) => {
                tracing::error!(%error, "the saved snapshot was not read");
                Fallback::default()
            }
        }
    }

    /// All first lists are there. (A Store answers this without waiting.)
    fn is_complete(&self) -> bool {
        use futures::FutureExt;
        let ready = |done: Option<Result<(), reflector::store::WriterDropped>>| matches!(done, Some(Ok(())));
        self.services.iter().all(|store| ready(store.wait_until_ready().now_or_never()))
            && self.slices.iter().all(|store| ready(store.wait_until_ready().now_or_never()))
            && ready(self.nodes.wait_until_ready().now_or_never())
    }

    fn snapshot(&mut self) -> Snapshot {
        let services = self.services.iter().flat_map(Store::state).collect();
        let slices = self.slices.iter().flat_map(Store::state).collect();
        self.converter.snapshot(services, slices, &self.nodes.state())
    }
}

impl Shared {
    fn problems(&self, now: Instant) -> Vec<Problem> {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.retain(|_, (until, _)| now < *until);
        errors.values().map(|(_, problem)| problem.clone()).collect()
    }

    /// Notes how a watch fares; an error of it is told once while it lasts.
    fn note(&self, what: &str, error: Option<&watcher::Error>) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        match error.map(|error| Problem {
            subject: Subject::Source("Kubernetes API".to_owned()),
            reason: ProblemReason::SourceUnavailable,
            message: describe(what, error),
        }) {
            None => {
                if errors.remove(what).is_some() {
                    tracing::info!(resource = what, "watching again");
                }
            }
            Some(problem) => {
                if errors.get(what).is_none_or(|(_, before)| *before != problem) {
                    tracing::warn!(resource = what, "{}; what is served stays as it is", problem.message);
                }
                let lasts = if error.is_some_and(is_timeout) { ANSWERS_AFTER } else { RECOVERED_AFTER };
                errors.insert(what.to_owned(), (Instant::now() + lasts, problem));
            }
        }
        drop(errors);
        self.changed.notify_one();
    }
}

/// A task of the source has ended, which none does by itself. The others go on:
/// endpoints may still be followed when Nodes are not.
fn defect(ended: Result<(), JoinError>) -> Problem {
    let why = ended.err().map(|error| format!(": {error}")).unwrap_or_default();
    let message = format!("a watch ended{why}; some changes are not seen any more: restart llb-agent");
    tracing::error!("{message}");
    let subject = Subject::Source("Kubernetes API".to_owned());
    Problem { subject, reason: ProblemReason::SourceUnavailable, message }
}

fn apis<K>(client: &Client, namespaces: &[String]) -> Vec<Api<K>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    if namespaces.is_empty() {
        return vec![Api::all(client.clone())];
    }
    namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
}

fn follow<K>(api: Api<K>, resource: &str, shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let what = match api.namespace() {
        Some(namespace) => format!("{resource} in namespace {namespace}"),
        None => resource.to_owned(),
    };
    let shared = shared.clone();
    tasks.spawn(async move {
        let config = watcher::Config::default().timeout(WATCH_SECS);
        let objects = watch_objects(api, config)
            // Half of an object's size, and of no use here.
            .modify(|object| object.meta_mut().managed_fields = None)
            .backoff(Retries::new());
        let mut events = std::pin::pin!(reflector::reflector(writer, objects));
        while let Some(event) = events.next().await {
            match event {
                // A part of a list that is not whole yet changes nothing.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => shared.note(&what, None),
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                    tracing::info!(resource = what, "the resource version expired; listing anew");
                }
                Err(error) => shared.note(&what, Some(&error)),
            }
        }
    });
    store
}

/// In words that name the way out.
fn describe(what: &str, error: &watcher::Error) -> String {
    let (verb, status) = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => ("list", Some(status)),
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => ("watch", Some(status)),
        watcher::Error::WatchError(status) => ("watch", Some(status)),
        _ => ("read", None),
    };
    match status.map(|status| (status.code, status)) {
        Some((401, status)) => format!(
            "cannot {verb} {what}: the API server does not accept the credentials ({}); renew the token or certificate of the kubeconfig",
            status.message
        ),
        Some((403, status)) => format!(
            "cannot {verb} {what}: {}; grant llb's user the verbs get, list and watch on them (llb-agent/deploy/rbac.yaml)",
            status.message
        ),
        Some((_, status)) => format!("cannot {verb} {what}: {}", status.message),
        None => format!("cannot {verb} {what}: {}", root_cause(error)),
    }
}

fn is_timeout(error: &watcher::Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    causes.any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    })
}

/// The innermost cause says what happened ("connection refused"); what is
/// around it only says where in the client.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(cause) = inner.source() {
        inner = cause;
    }
    inner.to_string()
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

    #[test]
    fn a_list_that_hangs_is_a_problem_until_its_next_time_out() {
        let failed = |kind: io::ErrorKind| {
            watcher::Error::InitialListFailed(kube::Error::Service(Box::new(io::Error::from(kind))))
        };
        let (shared, start) = (Shared::default(), Instant::now());
        shared.note("nodes", Some(&failed(io::ErrorKind::ConnectionRefused)));
        assert_eq!(shared.problems(start).len(), 1);
        assert_eq!(shared.problems(start + RECOVERED_AFTER + SETTLE * 100).len(), 0);
        shared.note("nodes", Some(&failed(io::ErrorKind::TimedOut)));
        assert_eq!(shared.problems(start + READ_TIMEOUT + LAST_RETRY).len(), 1);
        shared.note("nodes", None);
        assert_eq!(shared.problems(start).len(), 0);
    }
}
