// SPDX-License-Identifier: Apache-2.0
//! A data plane in memory, for tests without root. It remembers rules and moves nothing.
//!
//! A green test with it does not prove that traffic flows, that a frontend moves
//! from plane to plane without a gap, or that connections survive a change: it
//! has one plane, and no connections. Only an occupied port fails here;
//! `tests/simulation/faulty.rs` adds faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DataPlane, DataPlaneError};
use crate::model::{FailedBackends, Frontend, FrontendStatus, Phase, Rule};

/// Remembers what it was told; moves nothing.
#[derive(Debug, Default)]
pub struct FakePlane {
    frontends: BTreeMap<Frontend, FrontendStatus>,
    /// Frontends whose `upsert` fails, as if another program held the port.
    pub occupied: BTreeSet<Frontend>,
    /// A removed frontend stays draining until [`FakePlane::finish_draining`].
    pub drains_slowly: bool,
    /// What [`DataPlane::failed_backends`] returns.
    pub failed: FailedBackends,
}

impl FakePlane {
    /// Ends all old connections.
    pub fn finish_draining(&mut self) {
        self.frontends.retain(|_, status| status.phase == Phase::Serving);
    }
}

impl DataPlane for FakePlane {
    fn observe(&mut self) -> BTreeMap<Frontend, FrontendStatus> {
        self.frontends.clone()
    }

    async fn upsert(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        if self.occupied.contains(&frontend) {
            return Err(DataPlaneError::PortInUse { frontend, program: None });
        }
        let status = FrontendStatus::relayed(Arc::clone(rule), Phase::Serving);
        self.frontends.insert(frontend, status);
        Ok(())
    }

    fn failed_backends(&mut self) -> FailedBackends {
        self.failed.clone()
    }

    fn remove(&mut self, frontend: &Frontend) {
        if let Some(status) = self.frontends.get_mut(frontend) {
            status.phase = Phase::Draining;
        }
        if !self.drains_slowly {
            self.finish_draining();
        }
    }
}
