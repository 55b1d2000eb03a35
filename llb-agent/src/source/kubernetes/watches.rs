// SPDX-License-Identifier: Apache-2.0
//! The watch tasks: one for each kind of object, and for each namespace if llb
//! serves only some. Each keeps its Store up to date.

use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::health::Health;
use super::store::{Change, Store};
use super::timeouts::WATCH_SECS;
use crate::clock;
use crate::source::retries::Retries;

/// The APIs of these namespaces, or of the whole cluster if none is given.
pub(super) fn apis<K>(client: &Client, namespaces: &[String]) -> Vec<Api<K>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    if namespaces.is_empty() {
        return vec![Api::all(client.clone())];
    }
    namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
}

/// What all watches share.
pub(super) struct Watches {
    pub(super) health: Arc<Health>,
    /// Each change of it makes all watches list again.
    pub(super) relist: watch::Receiver<u64>,
    pub(super) tasks: JoinSet<()>,
}

impl Watches {
    /// Starts to follow the objects of one API.
    pub(super) fn follow<K, V>(
        &mut self,
        api: Api<K>,
        resource: &str,
        store: Arc<Store<V>>,
        convert: impl Fn(&K) -> V + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        V: Clone + PartialEq + Send + 'static,
    {
        let apply = move |event: &watcher::Event<K>| store.apply(event, &convert);
        self.follow_some(api, resource, watcher::Config::default(), apply);
    }

    /// Starts to follow some objects of one API; `apply` keeps them.
    pub(super) fn follow_some<K>(
        &mut self,
        api: Api<K>,
        resource: &str,
        config: watcher::Config,
        apply: impl Fn(&watcher::Event<K>) -> Change + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let what = match api.namespace() {
            Some(namespace) => format!("{resource} in namespace {namespace}"),
            None => resource.to_owned(),
        };
        let health = self.health.clone();
        let mut relist = self.relist.clone();
        let one = move |event| match event {
            Ok(event) => {
                let change = apply(&event);
                // An incomplete list does not show that all is well.
                let works = !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
                if works {
                    health.works(&what, clock::now_std());
                }
                if change == Change::Ours {
                    health.changed.notify_one();
                }
            }
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                tracing::info!(resource = what, "the resource version expired; listing again");
            }
            Err(error) => health.fails(&what, error, clock::now_std()),
        };
        self.tasks.spawn(async move {
            loop {
                let config = config.clone().timeout(WATCH_SECS);
                let mut events = std::pin::pin!(watcher(api.clone(), config).backoff(Retries::new()));
                loop {
                    tokio::select! {
                        Ok(()) = relist.changed() => break,
                        event = events.next() => match event {
                            Some(event) => one(event),
                            None => return,
                        }
                    }
                }
            }
        });
    }
}
