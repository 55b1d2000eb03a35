// SPDX-License-Identifier: Apache-2.0
//! A data plane in memory, for the simulation. It can be told to fail.
//!
//! A green test with it does *not* prove that any plane forwards, or that a plane reports what it
//! serves as this one does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DataPlane, DataPlaneError};
use crate::model::{Frontend, FrontendStatus, Phase, Rule};

/// Remembers the rules that it was given, and forwards nothing.
#[derive(Debug, Default)]
pub struct FakePlane {
    frontends: BTreeMap<Frontend, FrontendStatus>,
    /// Frontends whose `upsert` fails, as if another program had the port.
    pub occupied: BTreeSet<Frontend>,
    /// A removed frontend stays draining until [`FakePlane::finish_draining`].
    pub drains_slowly: bool,
}

impl FakePlane {
    /// Ends all old connections, and so all drains.
    pub fn finish_draining(&mut self) {
        self.frontends.retain(|_, status| status.phase == Phase::Serving);
    }
}

impl DataPlane for FakePlane {
    fn observe(&mut self) -> BTreeMap<Frontend, FrontendStatus> {
        self.frontends.clone()
    }

    async fn upsert(&mut self, frontend: Frontend, rule: &Arc<Rule>) -> Result<(), DataPlaneError> {
        // Like the relay, which binds a port only for a rule with backends.
        if self.occupied.contains(&frontend) && !rule.backends.is_empty() {
            return Err(DataPlaneError::PortInUse { frontend, program: None });
        }
        let status = FrontendStatus::relayed(Arc::clone(rule), Phase::Serving);
        self.frontends.insert(frontend, status);
        Ok(())
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
