// SPDX-License-Identifier: Apache-2.0
//! The publisher: waits for changes of the Stores and publishes whole snapshots.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::WriterDropped;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::cause::Server;
use super::connect::Cluster;
use super::fallback::Fallback;
use super::health::{self, Health};
use super::timeouts::{PATIENCE, RECOVERED_AFTER, SETTLE};
use super::watches::{apis, follow};
use crate::clock;
use crate::model::{Problem, ProblemReason, Snapshot, SourceReport};
use crate::source::convert::Converter;
use crate::source::saved::SavedSnapshots;

/// Follows the objects of a cluster.
#[derive(Debug)]
pub struct KubernetesSource {
    health: Arc<Health>,
    services: Vec<Store<Service>>,
    slices: Vec<Store<EndpointSlice>>,
    nodes: Store<Node>,
    /// Whether nothing can be served without the list of Nodes.
    needs_nodes: bool,
    saved: SavedSnapshots,
    converter: Converter,
    tasks: JoinSet<()>,
}

impl KubernetesSource {
    /// Starts the watches. Services and EndpointSlices are watched in `namespaces`, or in all
    /// namespaces if it is empty. Without `needs_nodes` the first snapshot may have no Nodes yet.
    pub fn start(
        cluster: &Cluster,
        namespaces: &[String],
        foreign_annotations: bool,
        needs_nodes: bool,
        saved: SavedSnapshots,
    ) -> Self {
        let client = &cluster.client;
        let server = Server { url: cluster.url.clone(), ca: cluster.ca.clone() };
        let health = Arc::new(Health::new(server));
        let mut tasks = JoinSet::new();
        let nodes = follow(Api::<Node>::all(client.clone()), "nodes", &health, &mut tasks);
        let services = apis(client, namespaces)
            .into_iter()
            .map(|api| follow(api, "services", &health, &mut tasks))
            .collect();
        let slices = apis(client, namespaces)
            .into_iter()
            .map(|api| follow(api, "endpointslices.discovery.k8s.io", &health, &mut tasks))
            .collect();
        let converter = Converter::new(foreign_annotations);
        Self { health, services, slices, nodes, needs_nodes, saved, converter, tasks }
    }

    /// Publishes snapshots until there is no receiver any more.
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
                () = self.health.changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(RECOVERED_AFTER) => {}
                () = &mut patience, if !complete && fallback.is_none() => fallback = Some(Fallback::load(self.saved.clone()).await),
                Some(ended) = self.tasks.join_next() => defects.push(defect(ended)),
                () = out.closed() => return,
            }
        }
    }

    fn report(&mut self, complete: bool, fallback: Option<&Fallback>) -> SourceReport {
        let mut problems = self.health.problems(clock::now_std());
        if complete {
            return SourceReport { snapshot: Some(Arc::new(self.snapshot())), problems };
        }
        problems.extend(fallback.and_then(|fallback| fallback.problem.clone()));
        SourceReport { snapshot: fallback.and_then(|fallback| fallback.snapshot.clone()), problems }
    }

    /// Whether all first lists that are needed have arrived. Does not wait.
    fn is_complete(&self) -> bool {
        let ready = |done: Option<Result<(), WriterDropped>>| matches!(done, Some(Ok(())));
        self.services.iter().all(|store| ready(store.wait_until_ready().now_or_never()))
            && self.slices.iter().all(|store| ready(store.wait_until_ready().now_or_never()))
            && (!self.needs_nodes || ready(self.nodes.wait_until_ready().now_or_never()))
    }

    fn snapshot(&mut self) -> Snapshot {
        let services = self.services.iter().flat_map(Store::state).collect();
        let slices = self.slices.iter().flat_map(Store::state).collect();
        self.converter.snapshot(services, slices, &self.nodes.state())
    }
}

/// A task of the source has ended, which is a defect. The other tasks continue: endpoints
/// can be followed even if Nodes are not.
fn defect(ended: Result<(), JoinError>) -> Problem {
    let why = ended.err().map(|error| format!(": {error}")).unwrap_or_default();
    let message =
        format!("a watch ended unexpectedly{why}; some changes are no longer noticed; restart llb-agent");
    tracing::error!("{message}");
    health::problem(ProblemReason::SourceUnavailable, message)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::Metadata;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::runtime::reflector::store::Writer;
    use kube::runtime::{reflector, watcher};

    use super::*;

    /// Gives the first list of one kind, with one object.
    fn list<K>(writer: &mut Writer<K>)
    where
        K: Metadata<Ty = ObjectMeta> + kube::Resource<DynamicType = ()> + Clone + Default + 'static,
    {
        let mut object = K::default();
        object.metadata_mut().name = Some("one".to_owned());
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitApply(object));
    }

    fn complete<K>(writer: &mut Writer<K>)
    where
        K: kube::Resource<DynamicType = ()> + Clone + 'static,
    {
        writer.apply_watcher_event(&watcher::Event::InitDone);
    }

    /// Whether the source publishes after each list: Services, EndpointSlices, Nodes; half of one first.
    fn published(needs_nodes: bool) -> [bool; 4] {
        let (services, mut service_lists) = reflector::store();
        let (slices, mut slice_lists) = reflector::store();
        let (nodes, mut node_lists) = reflector::store();
        let folder = tempfile::tempdir().unwrap();
        let mut source = KubernetesSource {
            health: Arc::new(Health::new(Server { url: String::new(), ca: String::new() })),
            services: vec![services],
            slices: vec![slices],
            nodes,
            needs_nodes,
            saved: SavedSnapshots::new(folder.path(), String::new(), watch::channel(false).1),
            converter: Converter::default(),
            tasks: JoinSet::new(),
        };
        let mut publishes = || {
            let complete = source.is_complete();
            source.report(complete, None).snapshot.is_some()
        };
        list(&mut service_lists);
        let half = publishes();
        complete(&mut service_lists);
        let services = publishes();
        list(&mut slice_lists);
        complete(&mut slice_lists);
        let slices = publishes();
        list(&mut node_lists);
        complete(&mut node_lists);
        [half, services, slices, publishes()]
    }

    #[test]
    fn nothing_is_published_before_the_first_whole_lists() {
        assert_eq!(published(true), [false, false, false, true]);
    }

    #[test]
    fn endpoints_are_served_without_nodes() {
        assert_eq!(published(false), [false, false, true, true]);
    }
}
