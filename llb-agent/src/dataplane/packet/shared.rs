// SPDX-License-Identifier: Apache-2.0
//! What the plane, its upkeep and its metrics share. The locks are never held across an
//! `.await`; who needs both takes `links` last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llb_common::counters::LinkCounters;
use tokio::sync::Notify;

use super::early_frames::EarlyCounts;
use super::lro::Lro;
use super::map_sizes::Capacities;
use super::maps::Maps;
use super::packet_link::PacketLink;
use super::pins::PinFolder;
use super::setup::PacketSetup;
use super::state::State;
use crate::model::Problem;

/// What the plane, its upkeep and its metrics share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) links: Mutex<Vec<PacketLink>>,
    /// The folder of the maps that all links share.
    pub(super) folder: PinFolder,
    pub(super) state: Mutex<State<Maps>>,
    /// What is wrong with the links.
    pub(super) problems: Mutex<Vec<Problem>>,
    /// Where LRO stays on. Unlike the other locks, this one is held while the kernel answers.
    pub(super) lro: tokio::sync::Mutex<Lro>,
    /// What became of fragments that came before the first one of their packet.
    pub(super) early: Mutex<EarlyCounts>,
    pub(super) capacities: Capacities,
    pub(super) setup: PacketSetup,
    /// Notified when `observe` would return something new.
    pub(super) changed: Arc<Notify>,
    /// Wakes the upkeep.
    pub(super) hurry: Notify,
    /// Wakes the sender of canaries: a Node waits for clients.
    pub(super) nodes_wait: Notify,
}

impl Shared {
    pub(super) fn links(&self) -> MutexGuard<'_, Vec<PacketLink>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<Maps>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn problems(&self) -> MutexGuard<'_, Vec<Problem>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn early(&self) -> MutexGuard<'_, EarlyCounts> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames that came in on each link. A link whose map can't be read is left out.
    pub(super) fn counters(&self) -> Vec<(String, LinkCounters)> {
        let read = |link: &PacketLink| Some((link.facts.name.clone(), link.counters()?));
        self.links().iter().filter_map(read).collect()
    }
}
