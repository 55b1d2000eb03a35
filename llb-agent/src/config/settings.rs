// SPDX-License-Identifier: Apache-2.0
//! The validated configuration, as the agent uses it.

use std::path::PathBuf;

use clap::ValueEnum;

use super::admin::AdminConfig;
use super::config_map_name::ConfigMapName;
use super::datapath::{Datapath, PacketConfig};
use super::group::GroupConfig;
use super::health::HealthConfig;
use super::policy::Policy;
use super::relay::RelayConfig;
use crate::model::{Announce, LeaseName, VIP_LINK};

/// Everything that was configured, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Link devices in order of preference; at least one, no name twice.
    pub links: Vec<String>,
    /// Where objects come from.
    pub source: SourceConfig,
    /// What decisions look at.
    pub policy: Policy,
    /// The group of this box; `None`: it is alone.
    pub group: Option<GroupConfig>,
    /// How backends are asked whether they work.
    pub health: HealthConfig,
    /// The limits of the relay.
    pub relay: RelayConfig,
    /// What forwards.
    pub datapath: Datapath,
    /// The packet plane.
    pub packet: PacketConfig,
    /// The admin endpoint.
    pub admin: AdminConfig,
    /// The folder for files that must survive a restart.
    pub state_dir: PathBuf,
    /// Where programs and maps are pinned.
    pub bpf_dir: PathBuf,
    /// How added addresses are marked.
    pub address_tag: AddressTag,
    /// What the agent does after a hand-over.
    pub after_handover: AfterHandover,
    /// Which log lines are written, as `RUST_LOG` says it.
    pub log: String,
}

impl Config {
    /// The links that VIPs are put on, or taken off: the link devices, and the link of routed VIPs.
    pub fn address_links(&self) -> Vec<String> {
        let routed = (self.policy.announce == Announce::Routed).then(|| VIP_LINK.to_owned());
        self.links.iter().cloned().chain(routed).collect()
    }
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A Kubernetes API.
    Kubernetes {
        /// `--kubeconfig`.
        kubeconfig: Option<PathBuf>,
        /// `--context`.
        context: Option<String>,
        /// The Lease by which the agents of the group agree on a writer; `None`: this agent writes.
        lease: Option<LeaseName>,
        /// The ConfigMap with further pools.
        config_map: Option<ConfigMapName>,
    },
    /// A folder or file.
    Manifests(PathBuf),
}

/// `--address-tag`: how llb recognizes the addresses that it added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AddressTag {
    /// By the kernel if it can, else by a list in the state folder
    #[default]
    Auto,
    /// By the kernel's address protocol (IFA_PROTO, since Linux 5.18)
    Kernel,
    /// By a list in the state folder
    File,
}

/// `--after-handover`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AfterHandover {
    /// End with status 0
    #[default]
    Exit,
    /// Do nothing until SIGTERM. For Pods: a Pod that ends is started again, and would take over in turn. Under systemd, this
    /// is as exit
    Wait,
}
