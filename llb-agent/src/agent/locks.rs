// SPDX-License-Identifier: Apache-2.0
//! The locks of an agent that is in charge: the first thing that an agent takes,
//! before it changes anything.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use crate::addresses::AgentLocks;
use crate::config::Config;
use crate::handover::{self, Predecessor, Setup, Start};

/// Held as long as this agent is in charge.
pub(super) struct Locks {
    /// Of the state folder.
    pub(super) state: OwnedFd,
    /// Of the links.
    pub(super) agent: AgentLocks,
}

/// Whether another agent has the state folder.
pub(super) enum Others {
    /// No agent has it, and no agent has one of the links.
    Nobody(Locks),
    /// This one, which may hand over.
    Agent(Predecessor),
}

impl Locks {
    /// With the lock of the state folder, takes those of the links.
    ///
    /// # Errors
    /// An agent with another state folder has a link.
    pub(super) async fn take(config: &Config, state: OwnedFd) -> anyhow::Result<Self> {
        let agent = AgentLocks::take(&config.address_links(), &config.state_dir).await?;
        Ok(Self { state, agent })
    }
}

/// Takes all locks, or finds the agent that has the state folder.
///
/// # Errors
/// Neither is possible. Nothing was changed.
pub(super) async fn look_for_others(config: &Config) -> anyhow::Result<Others> {
    Ok(
        match handover::start(&config.state_dir, &setup_of(config, config.datapath.has_packet_plane()))
            .await?
        {
            Start::Alone(state) => Others::Nobody(Locks::take(config, state).await?),
            Start::After(predecessor) => Others::Agent(predecessor),
        },
    )
}

/// What a predecessor and a successor have to agree on.
pub(super) fn setup_of(config: &Config, has_packet_plane: bool) -> Setup {
    let bpf_dir = has_packet_plane.then(|| config.bpf_dir.clone());
    Setup { links: config.links.clone(), bpf_dir, network_namespace: network_namespace() }
}

fn network_namespace() -> Option<u64> {
    Some(fs::metadata("/proc/self/ns/net").ok()?.ino())
}
