// SPDX-License-Identifier: Apache-2.0
//! What a source has to look at. It may change while the source runs.

use std::fmt;
use std::sync::Arc;

use crate::model::{Service, ServiceName};

/// What of the objects is followed, and what of them llb serves.
#[derive(Clone)]
pub struct Interest {
    /// It grows with each change. Reports say by which one they were made.
    pub number: u64,
    /// Services and EndpointSlices of these namespaces only; empty: of all.
    pub namespaces: Vec<String>,
    /// Whether annotations of MetalLB and kube-vip are honoured.
    pub foreign_annotations: bool,
    /// Whether nothing can be served without the list of Nodes.
    pub needs_nodes: bool,
    /// Whether llb serves a Service.
    pub is_ours: IsOurs,
    /// Where further pools are. It does not change.
    pub pools: Option<PoolMap>,
}

/// A ConfigMap with pools.
#[derive(Clone)]
pub struct PoolMap {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What its text says.
    pub parse: ParsePools,
}

/// From the text of a key to pools, as texts of `--pool`; or what is wrong with it, on one line.
pub type ParsePools = Arc<dyn Fn(&str, &str) -> Result<Vec<String>, String> + Send + Sync>;

impl fmt::Display for PoolMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether llb serves a Service.
pub type IsOurs = Arc<dyn Fn(&ServiceName, &Service) -> bool + Send + Sync>;

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Interest");
        shown.field("number", &self.number).field("namespaces", &self.namespaces).finish_non_exhaustive()
    }
}
