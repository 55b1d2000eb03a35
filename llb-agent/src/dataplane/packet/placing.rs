// SPDX-License-Identifier: Apache-2.0
//! Compares the places of frontends with the ways to their backends, after these were asked for again. What
//! follows is decided in `moves.rs`.

use super::maps::Maps;
use super::next_hops::NextHops;
use super::settings::known_sources;
use super::shared::Shared;
use super::state::State;
use crate::clock;
use crate::model::Rule;

/// Notes which frontends should be placed anew, and wakes the loop up if that has changed.
pub(super) fn note_moves(shared: &Shared, state: &mut State<Maps>, next_hops: &NextHops) {
    let used = next_hops.sources(&state.image.addresses());
    let in_use = known_sources(&state.settings, used);
    let (placed, in_maps) = (state.placed(), state.image.in_use());
    let ways = |rule: &Rule| next_hops.ways(&rule.addresses(), &in_use);
    if state.moves.look(&placed, ways, in_maps, clock::now()) {
        shared.changed.notify_one();
    }
}
