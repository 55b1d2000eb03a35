// SPDX-License-Identifier: Apache-2.0
//! What the plane, its tasks and its metrics share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llb_common::counters::LinkCounters;
use tokio::sync::Notify;

use super::map_sizes::Capacities;
use super::packet_link::PacketLink;
use super::pins::PinFolder;
use super::setup::PacketSetup;
use super::state::State;

/// What plane, keeper and metrics have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) links: Mutex<Vec<PacketLink>>,
    pub(super) folder: PinFolder,
    pub(super) state: Mutex<State>,
    pub(super) capacities: Capacities,
    pub(super) setup: PacketSetup,
    /// Told when `observe` has something new to say.
    pub(super) changed: Arc<Notify>,
    /// Wakes the keeper.
    pub(super) hurry: Notify,
}

impl Shared {
    pub(super) fn links(&self) -> MutexGuard<'_, Vec<PacketLink>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counters(&self) -> Vec<(String, LinkCounters)> {
        let read = |link: &PacketLink| Some((link.facts.name.clone(), link.counters()?));
        self.links().iter().filter_map(read).collect()
    }
}
