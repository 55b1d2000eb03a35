// SPDX-License-Identifier: Apache-2.0
//! The validated configuration, as the agent uses it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;

use super::datapath::{Datapath, PacketConfig};
use super::policy::Policy;
use super::relay::RelayConfig;

/// Everything that was configured, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Link devices in order of preference; at least one, no name twice.
    pub links: Vec<String>,
    /// Where objects come from.
    pub source: SourceConfig,
    /// What decisions look at.
    pub policy: Policy,
    /// The proxy plane's limits.
    pub relay: RelayConfig,
    /// What forwards.
    pub datapath: Datapath,
    /// The packet plane.
    pub packet: PacketConfig,
    /// The admin endpoint.
    pub admin: SocketAddr,
    /// What must outlive the agent.
    pub state_dir: PathBuf,
    /// Pins.
    pub bpf_dir: PathBuf,
    /// How added addresses are marked.
    pub address_tag: AddressTag,
    /// What comes after a hand-over.
    pub after_handover: AfterHandover,
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
    },
    /// A folder or file.
    Manifests(PathBuf),
}

/// How llb tells the addresses that it added from those of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AddressTag {
    /// By the kernel where it can, else in the state folder.
    #[default]
    Auto,
    /// By the address protocol (`IFA_PROTO`, Linux 5.18).
    Kernel,
    /// By a list in the state folder.
    File,
}

/// `--after-handover`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AfterHandover {
    /// End with status 0.
    #[default]
    Exit,
    /// Do nothing until SIGTERM.
    Wait,
}
