// SPDX-License-Identifier: Apache-2.0
//! The part of the configuration that decisions look at.

use clap::ValueEnum;
use serde::Serialize;

use crate::model::{Mode, Pool, Selector};

/// The `spec.loadBalancerClass` that is ours without `--class`.
pub const DEFAULT_CLASS: &str = "llb.dev/llb";

/// `--backends`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendMode {
    /// To node addresses and nodePorts
    Nodes,
    /// To the addresses of ready endpoints
    Endpoints,
    /// To nodes if the port has a nodePort and there are Nodes, else to endpoints
    Auto,
}

/// The part of the configuration that decisions look at.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    /// Serve only these namespaces; empty: all.
    pub namespaces: Vec<String>,
    /// The pools that VIPs are given from; empty: the link's own address is used.
    pub pools: Vec<Pool>,
    /// Whether traffic goes to Nodes or to endpoints.
    pub backends: BackendMode,
    /// Which Nodes may be used; `None`: all except control-plane Nodes.
    pub node_selector: Option<Selector>,
    /// Our `loadBalancerClass`.
    pub class: String,
    /// Serve Services without a class too.
    pub default_class: bool,
    /// The forwarding mode of Services without the annotation `llb.dev/mode`.
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
