// SPDX-License-Identifier: Apache-2.0
//! From raw flags to the validated [`Config`]: the checks that clap cannot make.

use super::admin::{AdminConfig, AdminSocketConfig, Choice, socket_in};
use super::arguments::ServeArgs;
use super::datapath::Datapath;
use super::environment::{is_in_pod, kubeconfig_variable, runtime_directory};
use super::lease::lease_of;
use super::permission::OwnPorts;
use super::policy::{FinalizerMode, Policy};
use super::settings::{Config, SourceConfig};
use crate::model::{Pool, PoolError, Selector, SelectorError};

/// A flag makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--pool`.
    #[error("--pool {text}")]
    Pool {
        /// As given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: PoolError,
    },
    /// `--node-selector`.
    #[error("--node-selector {text}")]
    NodeSelector {
        /// As given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: SelectorError,
    },
    /// Two pools have one name or overlap.
    #[error("--pool")]
    Pools(#[source] PoolError),
    /// A link is named twice.
    #[error("--linkdevice {name} is given twice")]
    LinkTwice {
        /// The link.
        name: String,
    },
    /// The kernel does not allow this name for a link.
    #[error("--linkdevice {name:?}: the name of a link has 1 to 15 characters, without slash or space")]
    LinkName {
        /// As given.
        name: String,
    },
}

impl TryFrom<ServeArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: ServeArgs) -> Result<Self, ConfigError> {
        let finalizers = match args.finalizer {
            FinalizerMode::On => true,
            FinalizerMode::Off => false,
            FinalizerMode::Auto => {
                let own_cluster = args.manifests.is_none() && args.kubeconfig.is_none();
                own_cluster && kubeconfig_variable().is_none() && is_in_pod()
            }
        };
        let admin = AdminConfig {
            address: args.admin.on(),
            socket: args
                .admin_socket
                .map_or_else(|| socket_in(runtime_directory().as_deref()), Choice::on)
                .map(|path| AdminSocketConfig { path, group: args.admin_group }),
        };
        let policy = Policy {
            finalizers,
            namespaces: args.namespaces,
            pools: parse_pools(args.pools)?,
            allow_vips: args.allow_vips,
            vip_rest: args.vip_rest,
            namespace_vips: args.namespace_vips,
            namespace_frontends: args.namespace_frontends,
            own_ports: OwnPorts {
                allowed: args.allow_ports,
                admin: admin.address.map(|address| address.port()),
            },
            backends: args.backends,
            node_selector: args.node_selector.map(parse_selector).transpose()?,
            node_health: args.health.node_health(),
            class: args.class,
            default_class: args.default_class,
            foreign_annotations: args.foreign_annotations,
            mode: args.packet.mode(),
        };
        check_links(&args.links)?;
        let lease = lease_of(args.lease, &policy.class, &policy.namespaces);
        let datapath = if args.userspace { Datapath::Userspace } else { args.datapath };
        Ok(Self {
            links: args.links,
            source: match args.manifests {
                Some(path) => SourceConfig::Manifests(path),
                None => {
                    SourceConfig::Kubernetes { kubeconfig: args.kubeconfig, context: args.context, lease }
                }
            },
            policy,
            health: args.health.config(),
            relay: args.relay.into_config(datapath),
            datapath,
            packet: args.packet.into(),
            admin,
            state_dir: args.state_dir,
            bpf_dir: args.bpf_dir,
            address_tag: args.address_tag,
            after_handover: args.after_handover,
        })
    }
}

fn check_links(links: &[String]) -> Result<(), ConfigError> {
    /// `IFNAMSIZ` less the closing zero byte.
    const LINK_NAME_MAX: usize = 15;
    for (position, name) in links.iter().enumerate() {
        let bad = |c: char| c == '/' || c.is_whitespace();
        if name.is_empty() || name.len() > LINK_NAME_MAX || name.contains(bad) {
            return Err(ConfigError::LinkName { name: name.clone() });
        }
        if links[..position].contains(name) {
            return Err(ConfigError::LinkTwice { name: name.clone() });
        }
    }
    Ok(())
}

fn parse_pools(texts: Vec<String>) -> Result<Vec<Pool>, ConfigError> {
    let parse = |text: String| text.parse().map_err(|source| ConfigError::Pool { text, source });
    let pools: Vec<Pool> = texts.into_iter().map(parse).collect::<Result<_, _>>()?;
    Pool::check_together(&pools).map_err(ConfigError::Pools)?;
    Ok(pools)
}

fn parse_selector(text: String) -> Result<Selector, ConfigError> {
    Selector::of_nodes(&text).map_err(|source| ConfigError::NodeSelector { text, source })
}
