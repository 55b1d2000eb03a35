// SPDX-License-Identifier: Apache-2.0
//! The policy with the pools of the ConfigMap, as the agent would have it. Pure.

use super::facts::Source;
use crate::config::{Config, Policy};
use crate::desired::with_cluster_pools;
use crate::model::Problem;

/// With what is wrong with the pools of the ConfigMap.
pub(super) fn policy_of(config: &Config, source: &Source) -> (Policy, Option<Problem>) {
    let known = source.snapshot.as_ref().and_then(|snapshot| snapshot.pools.as_ref());
    with_cluster_pools(&config.policy, known)
}
