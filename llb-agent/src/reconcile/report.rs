// SPDX-License-Identifier: Apache-2.0
//! What the loop tells the admin endpoint after each round.

use std::sync::Arc;

use serde::Serialize;

use crate::model::{Facts, Observed, PlanesState, Problem, State, StatusWriter};

/// What the admin endpoint shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Everything that the first whole snapshot asked for was done, or tried. Never unset again.
    pub ready: bool,
    /// What should be.
    pub desired: Arc<State>,
    /// What is, as read back at the end of the round.
    pub observed: Observed,
    /// This machine.
    pub facts: Facts,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// The state of the data planes.
    pub planes: PlanesState,
    /// Which agent of the group writes statuses and Events.
    pub writer: StatusWriter,
}
