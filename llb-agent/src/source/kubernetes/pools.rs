// SPDX-License-Identifier: Apache-2.0
//! Pools of addresses in a ConfigMap: as of its last content without mistakes. Until there was one, they are not known,
//! and then there is no snapshot: without pools, llb would open the subnets of its links.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ConfigMap;

use super::store::{Change, Store};
use crate::model::{ClusterPools, Problem, ProblemReason, Subject};
use crate::source::interest::PoolMap;

/// The key of the ConfigMap that has the text.
const KEY: &str = "llb.toml";

/// The pools of one ConfigMap, or what is wrong with it.
pub(super) type Content = Result<Vec<String>, String>;

/// What one watch knows of the ConfigMap.
pub(super) struct KnownPools {
    map: PoolMap,
    pub(super) store: Store<Content>,
    /// The pools of the last content without mistakes; at least one. All watches share them.
    good: Arc<Mutex<Option<Vec<String>>>>,
}

impl KnownPools {
    pub(super) fn new(map: PoolMap) -> Self {
        Self { map, store: Store::new(|_, _| Change::Ours), good: Arc::default() }
    }

    /// For another watch. What is known stays known.
    pub(super) fn again(&self) -> Self {
        Self { good: Arc::clone(&self.good), ..Self::new(self.map.clone()) }
    }

    pub(super) fn map(&self) -> &PoolMap {
        &self.map
    }

    /// What is kept of the ConfigMap.
    pub(super) fn content(&self, object: &ConfigMap) -> Content {
        let text = object.data.as_ref().and_then(|data| data.get(KEY));
        let text =
            text.ok_or_else(|| format!("it has no key {KEY}; put the pools there, as [[pool]] tables"))?;
        (self.map.parse)(text, KEY)
    }

    /// The pools; `None` if they are not known yet.
    pub(super) fn pools(&self) -> Option<ClusterPools> {
        let mut good = self.good();
        if let Some(Ok(pools)) = self.store.all().into_iter().next()
            && !pools.is_empty()
        {
            *good = Some(pools);
        }
        good.clone().map(|pools| ClusterPools { config_map: self.map.to_string(), pools })
    }

    /// Pools that an earlier agent has saved: they count while the ConfigMap has mistakes from the start, or is gone.
    pub(super) fn seed(&self, saved: &ClusterPools) {
        let mut good = self.good();
        if good.is_none() && self.has_saved(saved) {
            *good = Some(saved.pools.clone());
        }
    }

    /// Whether these are pools of this ConfigMap.
    pub(super) fn has_saved(&self, saved: &ClusterPools) -> bool {
        saved.config_map == self.map.to_string() && !saved.pools.is_empty()
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
            None => "no Service is served anew until its pools are known",
        };
        let subject = Subject::Object(format!("ConfigMap {}", self.map));
        // What stays is said first: the message may be cut.
        let message = format!("{meanwhile}: {wrong}");
        Some(Problem { subject, reason: ProblemReason::InvalidConfiguration, message })
    }

    fn good(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;

    /// A text is a pool, unless it is `bad`.
    fn pools() -> KnownPools {
        let parse = |text: &str, key: &str| match text {
            "bad" => Err(format!("{key}:1: a mistake")),
            text => Ok(text.split_whitespace().map(str::to_owned).collect()),
        };
        let (namespace, name) = ("llb".to_owned(), "pools".to_owned());
        KnownPools::new(PoolMap { namespace, name, parse: Arc::new(parse) })
    }

    fn map(data: &Value) -> ConfigMap {
        let meta = json!({"name": "pools", "namespace": "llb"});
        serde_json::from_value(json!({"metadata": meta, "data": data})).unwrap()
    }

    fn apply(pools: &KnownPools, event: &Event<ConfigMap>) {
        pools.store.apply(event, |object| pools.content(object));
    }

    fn listed(pools: &KnownPools, objects: &[Value]) {
        apply(pools, &Event::Init);
        objects.iter().for_each(|data| apply(pools, &Event::InitApply(map(data))));
        apply(pools, &Event::InitDone);
    }

    fn message(pools: &KnownPools) -> String {
        pools.problem().map(|problem| problem.to_string()).unwrap_or_default()
    }

    fn known(pools: &KnownPools) -> Option<Vec<String>> {
        pools.pools().map(|known| known.pools)
    }

    fn saved(config_map: &str, pools: &[&str]) -> ClusterPools {
        let pools = pools.iter().map(|&text| text.to_owned()).collect();
        ClusterPools { config_map: config_map.to_owned(), pools }
    }

    #[test]
    fn the_last_content_without_mistakes_counts() {
        let pools = pools();
        assert!(!pools.is_complete() && pools.problem().is_none(), "it was not looked at yet");
        listed(&pools, &[json!({"llb.toml": "a"})]);
        assert!(pools.is_complete() && pools.problem().is_none());
        for (data, wrong) in [
            (
                json!({"llb.toml": "bad"}),
                "its last pools without mistakes stay in use: llb.toml:1: a mistake",
            ),
            (json!({"other": "b"}), "it has no key llb.toml"),
        ] {
            apply(&pools, &Event::Apply(map(&data)));
            assert_eq!(known(&pools), Some(vec!["a".to_owned()]));
            assert!(message(&pools).contains(wrong), "{}", message(&pools));
        }
        apply(&pools, &Event::Delete(map(&json!({}))));
        assert_eq!(known(&pools), Some(vec!["a".to_owned()]));
        let expected = "ConfigMap llb/pools: InvalidConfiguration: its last pools without mistakes stay in use: there is no such";
        assert!(message(&pools).starts_with(expected), "{}", message(&pools));
        let again = pools.again();
        assert!(!again.is_complete(), "another watch has looked at nothing yet");
        assert_eq!(known(&again), Some(vec!["a".to_owned()]));
        listed(&again, &[]);
        assert!(again.is_complete());
        apply(&pools, &Event::Apply(map(&json!({"llb.toml": "b"}))));
        assert_eq!(known(&pools), Some(vec!["b".to_owned()]));
        assert_eq!(message(&pools), "");
    }

    #[test]
    fn without_pools_nothing_is_complete() {
        for objects in
            [vec![], vec![json!({})], vec![json!({"llb.toml": "bad"})], vec![json!({"llb.toml": ""})]]
        {
            let pools = pools();
            listed(&pools, &objects);
            assert!(!pools.is_complete() && pools.pools().is_none(), "{objects:?}");
        }
    }

    #[test]
    fn with_mistakes_from_the_start_saved_pools_of_this_config_map_count() {
        let pools = pools();
        listed(&pools, &[json!({"llb.toml": "bad"})]);
        assert!(
            message(&pools).contains("no Service is served anew until its pools are known"),
            "{}",
            message(&pools)
        );
        for others in [saved("llb/others", &["saved"]), saved("llb/pools", &[])] {
            pools.seed(&others);
            assert!(!pools.is_complete(), "{others:?}");
        }
        pools.seed(&saved("llb/pools", &["saved"]));
        assert!(pools.is_complete());
        assert_eq!(pools.pools(), Some(saved("llb/pools", &["saved"])));
        apply(&pools, &Event::Apply(map(&json!({"llb.toml": "b"}))));
        assert_eq!(known(&pools), Some(vec!["b".to_owned()]));
    }
}
