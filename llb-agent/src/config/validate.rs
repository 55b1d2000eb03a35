// SPDX-License-Identifier: Apache-2.0
//! From raw flags to the validated [`Config`]: the checks that clap cannot make.

use std::io;
use std::path::PathBuf;

use super::admin::{AdminConfig, AdminSocketConfig, Choice, socket_in};
use super::announce::{self, AnnounceError};
use super::arguments::ServeArgs;
use super::datapath::Datapath;
use super::environment::{is_in_pod, kubeconfig_variable, runtime_directory};
use super::file::Mistakes;
use super::group::{self, GroupArgs, GroupConfig, GroupError};
use super::lease::lease_of;
use super::permission::OwnPorts;
use super::policy::{FinalizerMode, Policy};
use super::settings::{AddressTag, Config, SourceConfig};
use crate::error_chain::ErrorChain;
use crate::model::{Announce, DisjointPools, PoolError};

/// The configuration makes no sense, or can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Two pools have one name or overlap.
    #[error("--pool")]
    Pools(#[source] PoolError),
    /// A link is named twice.
    #[error("--linkdevice {name} is given twice")]
    LinkTwice {
        /// The link.
        name: String,
    },
    /// The flags of a group do not go together.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The flags of routed VIPs do not go together.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// No link is named.
    #[error(
        "no link device is given; name one with --linkdevice NAME, or with linkdevice = \"NAME\" in {}",
        file.display()
    )]
    NoLink {
        /// The configuration file, whether it exists or not.
        file: PathBuf,
    },
    /// The configuration file can't be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The configuration file was there, and is gone.
    #[error(
        "the configuration file {} is gone; put it back, or restart llb-agent if it is to run without it",
        file.display()
    )]
    Gone {
        /// The file.
        file: PathBuf,
    },
    /// Something in the file is wrong.
    #[error(transparent)]
    File(#[from] Mistakes),
    /// Flags do not go together.
    #[error("{}", text.trim_start_matches("error: ").trim_end())]
    Flags {
        /// What clap says.
        text: String,
    },
}

impl ConfigError {
    /// The key whose values do not go together, and why, without the name of the flag.
    pub(super) fn key(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Pools(error) => Some(("pool", ErrorChain(error).to_string())),
            Self::LinkTwice { name } => Some(("linkdevice", format!("{name} is given twice"))),
            Self::Group(GroupError { key, text }) | Self::Announce(AnnounceError { key, text }) => {
                Some((key, text.clone()))
            }
            _ => None,
        }
    }

    /// Whether this value of the key is one of those that do not go together.
    pub(super) fn is_about(&self, value: &str) -> bool {
        match self {
            Self::Pools(error) => value.parse().is_ok_and(|pool| error.is_about(&pool)),
            Self::LinkTwice { name } => value == name,
            _ => false,
        }
    }
}

impl TryFrom<ServeArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: ServeArgs) -> Result<Self, ConfigError> {
        let finalizers = writes_finalizers(&args);
        let admin = AdminConfig {
            address: args.admin.on(),
            socket: args
                .admin_socket
                .map_or_else(|| runtime_directory().and_then(|folder| socket_in(&folder)), Choice::on)
                .map(|path| AdminSocketConfig { path, group: args.admin_group }),
        };
        let datapath = if args.userspace { Datapath::Userspace } else { args.datapath };
        let policy = Policy {
            finalizers,
            announce: args.announce.into(),
            has_packet_plane: datapath.has_packet_plane(),
            namespaces: args.namespaces,
            pools: args.pools,
            config_map: args.config_map.as_ref().map(ToString::to_string),
            allow_vips: args.allow_vips,
            vip_rest: args.vip_rest,
            namespace_vips: args.namespace_vips,
            namespace_frontends: args.namespace_frontends,
            own_ports: OwnPorts {
                allowed: args.allow_ports,
                admin: admin.address.map(|address| address.port()),
            },
            backends: args.backends,
            node_selector: args.node_selector,
            node_health: args.health.node_health(),
            class: args.class,
            default_class: args.default_class,
            foreign_annotations: args.foreign_annotations,
            mode: args.packet.mode(),
        };
        check_lists(&policy, &args.links)?;
        let group = group_of(args.group, &policy, args.address_tag)?;
        group::check_around(group.as_ref(), &args.links, &args.state_dir, &admin)?;
        let lease = lease_of(args.lease, &policy.class, &policy.namespaces);
        Ok(Self {
            links: args.links,
            source: match args.manifests {
                Some(path) => SourceConfig::Manifests(path),
                None => SourceConfig::Kubernetes {
                    kubeconfig: args.kubeconfig,
                    context: args.context,
                    lease,
                    config_map: args.config_map,
                },
            },
            policy,
            group,
            health: args.health.config(),
            relay: args.relay.into_config(datapath),
            datapath,
            packet: args.packet.into(),
            admin,
            state_dir: args.state_dir,
            bpf_dir: args.bpf_dir,
            address_tag: args.address_tag,
            after_handover: args.after_handover,
            log: args.log,
        })
    }
}

/// Whether a deleted Service is kept until its VIP is gone.
fn writes_finalizers(args: &ServeArgs) -> bool {
    match args.finalizer {
        FinalizerMode::On => true,
        FinalizerMode::Off => false,
        FinalizerMode::Auto => {
            let own_cluster = args.manifests.is_none() && args.kubeconfig.is_none();
            own_cluster && kubeconfig_variable().is_none() && is_in_pod()
        }
    }
}

/// The group of this box. With routed VIPs every box has all of them, so keepalived has nothing to decide.
fn group_of(group: GroupArgs, policy: &Policy, tag: AddressTag) -> Result<Option<GroupConfig>, GroupError> {
    let group = group.config(policy, tag == AddressTag::File)?;
    Ok(group.filter(|_| policy.announce == Announce::L2))
}

fn check_lists(policy: &Policy, links: &[String]) -> Result<(), ConfigError> {
    DisjointPools::check(&policy.pools).map_err(ConfigError::Pools)?;
    let mut twice = links.iter().enumerate().filter(|(position, name)| links[..*position].contains(name));
    match twice.next() {
        Some((_, name)) => Err(ConfigError::LinkTwice { name: name.clone() }),
        None => Ok(announce::check_around(policy, links)?),
    }
}
