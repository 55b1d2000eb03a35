// SPDX-License-Identifier: Apache-2.0
//! The saved snapshot, which is served if the API does not answer at the start.

use std::sync::Arc;

use super::health;
use super::pools::KnownPools;
use crate::error_chain::ErrorChain;
use crate::model::{Problem, ProblemReason, Snapshot};
use crate::source::saved::{Saved, SavedError, SavedSnapshots};

/// What is served instead of lists that have not arrived, and what is said about it.
#[derive(Default)]
pub(super) struct Fallback {
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) problem: Option<Problem>,
}

impl Fallback {
    /// The saved snapshot, or why there is none.
    pub(super) async fn load(saved: SavedSnapshots) -> Self {
        match tokio::task::spawn_blocking(move || saved.load()).await {
            Ok(Ok(Saved { saved_at, snapshot, .. })) => {
                let message = format!("serving the saved snapshot of {saved_at} until the API answers");
                tracing::warn!(services = snapshot.services.len(), "{message}");
                let problem = health::problem(ProblemReason::SourceUnavailable, message);
                Self { snapshot: Some(Arc::new(snapshot)), problem: Some(problem) }
            }
            Ok(Err(error @ SavedError::Missing(_))) => {
                tracing::warn!(
                    "nothing is served until the API answers: there is no saved snapshot ({error})"
                );
                Self::default()
            }
            Ok(Err(error)) => {
                let error = ErrorChain(&error);
                let message = format!("nothing is served until the API answers: the saved snapshot {error}");
                tracing::warn!("{message}");
                let problem = health::problem(ProblemReason::SavedSnapshotRefused, message);
                Self { snapshot: None, problem: Some(problem) }
            }
            Err(error) => {
                tracing::error!(%error, "the task that reads the saved snapshot failed");
                Self::default()
            }
        }
    }

    /// If pools are in a ConfigMap, only a snapshot with pools of this ConfigMap can be served: without them, nobody
    /// knows which addresses are open.
    pub(super) fn for_pools(self, pools: Option<&KnownPools>) -> Self {
        let Some((pools, snapshot)) = pools.zip(self.snapshot.as_ref()) else { return self };
        if snapshot.pools.as_ref().is_some_and(|saved| pools.has_saved(saved)) {
            return self;
        }
        let message = format!(
            "no Service is served anew until ConfigMap {} can be read: the saved snapshot has no pools of it",
            pools.map()
        );
        tracing::warn!("{message}");
        let problem = health::problem(ProblemReason::SavedSnapshotRefused, message);
        Self { snapshot: None, problem: Some(problem) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClusterPools;
    use crate::source::interest::PoolMap;

    #[test]
    fn a_saved_snapshot_without_the_pools_of_the_config_map_is_not_served() {
        let parse = |_: &str, _: &str| Err(String::new());
        let map = PoolMap { namespace: "llb".to_owned(), name: "pools".to_owned(), parse: Arc::new(parse) };
        let known = KnownPools::new(map);
        let saved = |config_map: &str| ClusterPools {
            config_map: config_map.to_owned(),
            pools: vec!["192.0.2.1".to_owned()],
        };
        let serves = |pools: Option<ClusterPools>, known: Option<&KnownPools>| {
            let snapshot = Some(Arc::new(Snapshot { pools, ..Snapshot::default() }));
            let fallback = Fallback { snapshot, problem: None }.for_pools(known);
            assert_eq!(fallback.snapshot.is_none(), fallback.problem.is_some());
            fallback.snapshot.is_some()
        };
        assert!(serves(None, None) && serves(Some(saved("llb/pools")), None), "without --config-map");
        assert!(serves(Some(saved("llb/pools")), Some(&known)));
        assert!(!serves(None, Some(&known)), "it was saved before there was a ConfigMap");
        assert!(!serves(Some(saved("llb/others")), Some(&known)));
    }
}
