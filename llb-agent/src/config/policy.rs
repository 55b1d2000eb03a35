// SPDX-License-Identifier: Apache-2.0
//! The part of the configuration that decisions look at.

use clap::ValueEnum;
use serde::Serialize;

use crate::model::{Mode, Pool, Selector};

/// The value of `spec.loadBalancerClass` that is llb's.
pub const DEFAULT_CLASS: &str = "llb.dev/llb";

/// `--backends`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendMode {
    /// Node address + nodePort.
    Nodes,
    /// Ready endpoint addresses.
    Endpoints,
    /// Nodes for a port that has a nodePort where the cluster has Nodes, else endpoints.
    Auto,
}

/// The part of the configuration that decisions look at.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    /// Serve only these namespaces; empty: all.
    pub namespaces: Vec<String>,
    /// Where VIPs are given from; empty: the link's own address is used.
    pub pools: Vec<Pool>,
    /// Nodes or endpoints.
    pub backends: BackendMode,
    /// Narrows the Nodes.
    pub node_selector: Option<Selector>,
    /// Our `loadBalancerClass`.
    pub class: String,
    /// Serve class-less Services too.
    pub default_class: bool,
    /// How Services that do not say it themselves are forwarded by the packet plane.
    pub mode: Mode,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            pools: Vec::new(),
            backends: BackendMode::Auto,
            node_selector: None,
            class: DEFAULT_CLASS.to_owned(),
            default_class: true,
            mode: Mode::Nat,
        }
    }
}
