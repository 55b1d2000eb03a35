// SPDX-License-Identifier: Apache-2.0
//! The part of the configuration that decisions look at.

use std::sync::LazyLock;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::permission::OwnPorts;
use crate::model::{AddressRange, Announce, Mode, Pool, Selector};

/// The `spec.loadBalancerClass` that is ours without `--class`.
pub const DEFAULT_CLASS: &str = "llb.dev/llb";

/// The most VIPs of one namespace without `--namespace-vips`.
pub(super) const DEFAULT_NAMESPACE_VIPS: usize = 1024;
/// The most frontends of one namespace without `--namespace-frontends`: a quarter of what the packet plane has.
pub(super) const DEFAULT_NAMESPACE_FRONTENDS: usize = 4096;

/// How long a released VIP rests without `--vip-rest`: longer than most resolvers and connections of clients remember it.
const DEFAULT_VIP_REST: Duration = Duration::from_secs(60);

/// [`DEFAULT_VIP_REST`] as `--vip-rest` has it.
pub(super) fn default_vip_rest() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{}s", DEFAULT_VIP_REST.as_secs()));
    &TEXT
}

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

/// `--finalizer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum FinalizerMode {
    /// On in a Pod of the cluster, else off
    #[default]
    Auto,
    /// Services get it
    On,
    /// Services get none, and llb removes those that it has added
    Off,
}

/// The part of the configuration that decisions look at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    /// Serve only these namespaces; empty: all.
    pub namespaces: Vec<String>,
    /// The pools that VIPs are given from.
    pub pools: Vec<Pool>,
    /// The ConfigMap that has further pools, as `namespace/name`.
    pub config_map: Option<String>,
    /// Addresses that Services may ask for besides those of the pools.
    pub allow_vips: Vec<AddressRange>,
    /// Which ports of the machine's own address they may have.
    pub own_ports: OwnPorts,
    /// The most VIPs that the Services of one namespace can have.
    pub namespace_vips: usize,
    /// The most frontends that the Services of one namespace can have.
    pub namespace_frontends: usize,
    /// How long a released VIP rests before another Service gets it.
    pub vip_rest: Duration,
    /// Whether traffic goes to Nodes or to endpoints.
    pub backends: BackendMode,
    /// Which Nodes may be used; `None`: all except control-plane Nodes.
    pub node_selector: Option<Selector>,
    /// Whether kube-proxy is asked, with externalTrafficPolicy Local, if a Node serves a Service.
    pub node_health: bool,
    /// Our `loadBalancerClass`.
    pub class: String,
    /// Serve Services without a class too.
    pub default_class: bool,
    /// Whether annotations of MetalLB and kube-vip are honoured as llb's own.
    pub foreign_annotations: bool,
    /// The forwarding mode of Services without the annotation `llb.dev/mode`.
    pub mode: Mode,
    /// Whether Services get a finalizer, so that they stay until their VIPs are gone.
    pub finalizers: bool,
    /// How clients find the way to VIPs.
    pub announce: Announce,
    /// Whether there is to be a packet plane.
    pub has_packet_plane: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            pools: Vec::new(),
            config_map: None,
            allow_vips: Vec::new(),
            own_ports: OwnPorts::default(),
            namespace_vips: DEFAULT_NAMESPACE_VIPS,
            namespace_frontends: DEFAULT_NAMESPACE_FRONTENDS,
            vip_rest: DEFAULT_VIP_REST,
            backends: BackendMode::Auto,
            node_selector: None,
            node_health: true,
            class: DEFAULT_CLASS.to_owned(),
            default_class: true,
            foreign_annotations: true,
            mode: Mode::Nat,
            finalizers: false,
            announce: Announce::L2,
            has_packet_plane: true,
        }
    }
}

impl Policy {
    /// Whether there are no pools at all: then the links' own addresses are used, and their subnets are open. Pools of a
    /// ConfigMap that has none that can be used are not that: nothing may be opened because somebody empties it.
    pub fn has_no_pools(&self) -> bool {
        self.pools.is_empty() && self.config_map.is_none()
    }

    /// What Services may ask for, and which flag narrows it: one line for the log.
    pub fn what_is_open(&self, links: &[String]) -> String {
        let whose = match &*self.namespaces {
            [] => "every namespace".to_owned(),
            namespaces => format!("namespace {}", namespaces.join(", ")),
        };
        let list =
            |ranges: &[AddressRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let beside = if self.allow_vips.is_empty() {
            String::new()
        } else {
            format!(", or of --allow-vips {}", list(&self.allow_vips))
        };
        if self.has_no_pools() {
            return format!(
                "Services of {whose} are served on the address of {links}, and may ask for any free address in its subnets{beside}; \
                 --pool narrows this to the addresses of the pool, --namespace to some Services",
                links = links.join(", ")
            );
        }
        let own = self.pools.iter().map(|pool| format!("--pool {pool}"));
        let of_map = self.config_map.iter().map(|name| format!("the pools of ConfigMap {name}"));
        let pools: Vec<String> = own.chain(of_map).collect();
        format!(
            "Services of {whose} may have addresses of {}{beside}; --namespace narrows this",
            pools.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_what_is_open() {
        let mut policy = Policy::default();
        let links = ["eth0".to_owned()];
        assert_eq!(
            policy.what_is_open(&links),
            "Services of every namespace are served on the address of eth0, and may ask for any free address in its subnets; \
             --pool narrows this to the addresses of the pool, --namespace to some Services"
        );
        policy.pools = vec!["a=192.0.2.7".parse().unwrap()];
        policy.allow_vips = vec!["198.51.100.7".parse().unwrap()];
        policy.namespaces = vec!["shop".to_owned()];
        assert_eq!(
            policy.what_is_open(&links),
            "Services of namespace shop may have addresses of --pool a=192.0.2.7, or of --allow-vips 198.51.100.7; --namespace narrows this"
        );
        policy.config_map = Some("llb/pools".to_owned());
        policy.pools.clear();
        policy.allow_vips.clear();
        assert_eq!(
            policy.what_is_open(&links),
            "Services of namespace shop may have addresses of the pools of ConfigMap llb/pools; --namespace narrows this"
        );
    }
}
