// SPDX-License-Identifier: Apache-2.0
//! All watches for one interest, and the Stores that they fill. With another interest, all of it is made anew.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connect::Cluster;
use super::health::Health;
use super::objects::{Objects, known_node, known_service, known_slice};
use super::pools::KnownPools;
use super::probe::Probe;
use super::ranges;
use super::watches::{Watches, apis};
use crate::source::interest::Interest;

/// The watches end when it is dropped.
pub(super) struct Watching {
    pub(super) interest: Interest,
    pub(super) objects: Objects,
    pub(super) tasks: JoinSet<()>,
}

impl Watching {
    /// Starts the watches.
    pub(super) fn start(
        cluster: &Cluster,
        interest: Interest,
        pools: Option<KnownPools>,
        health: &Arc<Health>,
    ) -> Self {
        let client = &cluster.client;
        let (relist, listen) = watch::channel(0);
        let mut watches = Watches { health: Arc::clone(health), relist: listen, tasks: JoinSet::new() };
        let services = apis(client, &interest.namespaces);
        let objects = Objects::new(services.len(), interest.needs_nodes, pools.map(Arc::new));
        watches.follow(Api::<Node>::all(client.clone()), "nodes", objects.nodes.clone(), known_node);
        for (api, store) in services.into_iter().zip(&objects.services) {
            let interest = interest.clone();
            watches.follow(api, "services", store.clone(), move |object| known_service(object, &interest));
        }
        for (api, store) in apis(client, &interest.namespaces).into_iter().zip(&objects.slices) {
            watches.follow(api, "endpointslices.discovery.k8s.io", store.clone(), known_slice);
        }
        if let Some(pools) = &objects.pools {
            let (kept, map) = (Arc::clone(pools), pools.map());
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), &map.namespace);
            let only = format!("metadata.name={}", map.name);
            let config = watcher::Config::default().fields(&only);
            watches.follow_some(api, &format!("configmaps ({})", map.name), config, move |event| {
                kept.store.apply(event, |object| kept.content(object))
            });
        }
        let mut tasks = watches.tasks;
        tasks.spawn(ranges::follow(client.clone(), objects.ranges.clone(), Arc::clone(health)));
        let (namespaces, health) = (interest.namespaces.clone(), Arc::clone(health));
        tasks.spawn(Probe { cluster: cluster.clone(), namespaces, health, relist }.run());
        Self { interest, objects, tasks }
    }
}
