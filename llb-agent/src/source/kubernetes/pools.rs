// SPDX-License-Identifier: Apache-2.0
//! Pools of addresses in a ConfigMap: as of its last content without mistakes. If there was none yet, the saved
//! snapshot may have them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;

use super::store::{Change, Store};
use crate::model::{Problem, ProblemReason, Subject};
use crate::source::interest::PoolMap;

/// The key of the ConfigMap that has the text.
const KEY: &str = "llb.toml";

/// The pools of one ConfigMap, or what is wrong with it.
pub(super) type Content = Result<Vec<String>, String>;

/// What is known of the ConfigMap.
pub(super) struct ClusterPools {
    map: PoolMap,
    pub(super) store: Store<Content>,
    /// The last content without mistakes.
    good: Mutex<Option<Vec<String>>>,
}

impl ClusterPools {
    pub(super) fn new(map: PoolMap) -> Self {
        Self { map, store: Store::new(|_, _| Change::Ours), good: Mutex::default() }
    }

    pub(super) fn map(&self) -> &PoolMap {
        &self.map
    }

    /// What is kept of the ConfigMap.
    pub(super) fn content(&self, object: &ConfigMap) -> Content {
        let text = object.data.as_ref().and_then(|data| data.get(KEY));
        let text =
            text.ok_or_else(|| format!("it has no key {KEY}; put the pools there, as [[pool]] tables"))?;
        (self.map.parse)(text)
    }

    /// The pools, as texts of `--pool`; `None` if they are not known yet.
    pub(super) fn pools(&self) -> Option<Vec<String>> {
        let mut good = self.good();
        if let Some(Ok(pools)) = self.store.all().into_iter().next() {
            *good = Some(pools);
        }
        good.clone()
    }

    /// Pools that an earlier agent has saved: they count if the ConfigMap has mistakes from the start.
    pub(super) fn seed(&self, saved: &[String]) {
        let mut good = self.good();
        if good.is_none() && !saved.is_empty() {
            *good = Some(saved.to_vec());
        }
    }

    /// Whether the ConfigMap was looked at, and pools are known.
    pub(super) fn is_complete(&self) -> bool {
        self.store.is_complete() && self.pools().is_some()
    }

    /// What is wrong with the ConfigMap.
    pub(super) fn problem(&self) -> Option<Problem> {
        if !self.store.is_complete() {
            return None;
        }
        let wrong = match self.store.all().into_iter().next() {
            Some(Ok(_)) => return None,
            Some(Err(wrong)) => wrong,
            None => "there is no such ConfigMap; create it, or leave out --config-map".to_owned(),
        };
        let meanwhile = match self.pools() {
            Some(_) => "its last pools without mistakes stay in use",
            None => "nothing is served until its pools are known",
        };
        let subject = Subject::Object(self.map.to_string());
        let message = format!("{wrong}; {meanwhile}");
        Some(Problem { subject, reason: ProblemReason::InvalidConfiguration, message })
    }

    fn good(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;

    /// A text is a pool, unless it is `bad`.
    fn pools() -> ClusterPools {
        let parse = |text: &str| match text {
            "bad" => Err("a mistake".to_owned()),
            text => Ok(vec![text.to_owned()]),
        };
        let (namespace, name) = ("llb".to_owned(), "pools".to_owned());
        ClusterPools::new(PoolMap { namespace, name, parse: Arc::new(parse) })
    }

    fn map(data: &Value) -> ConfigMap {
        let meta = json!({"name": "pools", "namespace": "llb"});
        serde_json::from_value(json!({"metadata": meta, "data": data})).unwrap()
    }

    fn apply(pools: &ClusterPools, event: &Event<ConfigMap>) {
        pools.store.apply(event, |object| pools.content(object));
    }

    fn listed(pools: &ClusterPools, objects: &[Value]) {
        apply(pools, &Event::Init);
        objects.iter().for_each(|data| apply(pools, &Event::InitApply(map(data))));
        apply(pools, &Event::InitDone);
    }

    fn message(pools: &ClusterPools) -> String {
        pools.problem().map(|problem| problem.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_last_content_without_mistakes_counts() {
        let pools = pools();
        assert!(!pools.is_complete() && pools.problem().is_none(), "it was not looked at yet");
        listed(&pools, &[json!({"llb.toml": "a"})]);
        assert!(pools.is_complete() && pools.problem().is_none());
        for (data, wrong) in [
            (json!({"llb.toml": "bad"}), "a mistake; its last pools without mistakes stay in use"),
            (json!({"other": "b"}), "it has no key llb.toml"),
        ] {
            apply(&pools, &Event::Apply(map(&data)));
            assert_eq!(pools.pools(), Some(vec!["a".to_owned()]));
            assert!(message(&pools).contains(wrong), "{}", message(&pools));
        }
        apply(&pools, &Event::Delete(map(&json!({}))));
        assert_eq!(pools.pools(), Some(vec!["a".to_owned()]));
        let expected = "ConfigMap llb/pools: InvalidConfiguration: there is no such ConfigMap";
        assert!(message(&pools).starts_with(expected), "{}", message(&pools));
        apply(&pools, &Event::Apply(map(&json!({"llb.toml": "b"}))));
        assert_eq!(pools.pools(), Some(vec!["b".to_owned()]));
        assert_eq!(message(&pools), "");
    }

    #[test]
    fn with_mistakes_from_the_start_saved_pools_count_and_without_them_nothing_is_served() {
        let pools = pools();
        listed(&pools, &[json!({"llb.toml": "bad"})]);
        assert!(!pools.is_complete());
        assert!(
            message(&pools).ends_with("nothing is served until its pools are known"),
            "{}",
            message(&pools)
        );
        pools.seed(&[]);
        assert!(!pools.is_complete());
        pools.seed(&["saved".to_owned()]);
        assert!(pools.is_complete());
        assert_eq!(pools.pools(), Some(vec!["saved".to_owned()]));
        apply(&pools, &Event::Apply(map(&json!({"llb.toml": "b"}))));
        assert_eq!(pools.pools(), Some(vec!["b".to_owned()]));
    }
}
