// SPDX-License-Identifier: Apache-2.0
//! The watch tasks: one for each kind of object, and for each namespace if llb
//! serves only some. Each keeps its Store up to date.

use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::health::Health;
use super::timeouts::WATCH_SECS;
use crate::clock;
use crate::model::FIELD_MANAGER;
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

/// Starts to follow the objects of one API.
pub(super) fn follow<K>(
    api: Api<K>,
    resource: &str,
    health: &Arc<Health>,
    tasks: &mut JoinSet<()>,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let what = match api.namespace() {
        Some(namespace) => format!("{resource} in namespace {namespace}"),
        None => resource.to_owned(),
    };
    let health = health.clone();
    tasks.spawn(async move {
        let config = watcher::Config::default().timeout(WATCH_SECS);
        let objects = watcher(api, config)
            .modify(|object| forget_managed_fields(object.meta_mut()))
            .backoff(Retries::new());
        let mut events = std::pin::pin!(reflector::reflector(writer, objects));
        while let Some(event) = events.next().await {
            match event {
                // An incomplete list changes nothing.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => health.works(&what, clock::now_std()),
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                    tracing::info!(resource = what, "the resource version expired; listing again");
                }
                Err(error) => health.fails(&what, error, clock::now_std()),
            }
        }
    });
    store
}

/// Who has changed which field is half of an object's size. Only what llb itself has changed is of use: it tells llb's
/// finalizer from that of another load balancer.
fn forget_managed_fields(meta: &mut ObjectMeta) {
    let Some(all) = &mut meta.managed_fields else { return };
    all.retain(|fields| fields.manager.as_deref() == Some(FIELD_MANAGER));
    all.shrink_to_fit();
}
