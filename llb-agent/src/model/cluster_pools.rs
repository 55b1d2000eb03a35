// SPDX-License-Identifier: Apache-2.0
//! Pools that the cluster has, in a ConfigMap. Not: what the ConfigMap may say (`config/config_map.rs`).

use serde::{Deserialize, Serialize};

/// The pools of a ConfigMap as of its last content without mistakes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPools {
    /// The ConfigMap, as `namespace/name`. With another `--config-map`, the pools mean nothing.
    pub config_map: String,
    /// At least one, as texts of `--pool`.
    pub pools: Vec<String>,
}
