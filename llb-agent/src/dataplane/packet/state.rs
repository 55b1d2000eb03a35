// SPDX-License-Identifier: Apache-2.0
//! Follows rules: from a rule to the maps.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use llb_common::address::Address;
use llb_common::settings::{SNAT_ADDRESSES, Settings};
use tokio::time::Instant;

use super::clock::now;
use super::image::{Gate, MapImage, NoRoom};
use super::maps::Maps;
use super::next_hops::NextHops;
use super::sweep::FlowCounts;
use crate::model::{Frontend, Mode, Rule};

/// For a drain without a limit.
pub(super) const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(10 * 365 * 86_400);

#[derive(Debug)]
pub(super) struct State {
    pub(super) image: MapImage,
    pub(super) maps: Arc<Maps>,
    pub(super) settings: Settings,
    /// From the last sweep.
    pub(super) flows: FlowCounts,
    /// When frontends that end are gone at the latest.
    pub(super) drains: BTreeMap<Frontend, Instant>,
    /// Why a frontend is not in the mode that its rule asks for.
    pub(super) notes: BTreeMap<Frontend, String>,
}

pub(super) enum Failure {
    NoRoom(NoRoom),
    Kernel(io::Error),
}

impl State {
    /// Whether a frontend ends soon, so that it is worth a look often.
    pub(super) fn is_draining(&self) -> bool {
        let soon = Instant::now() + AS_LONG_AS_IT_TAKES / 2;
        self.drains.values().any(|until| *until < soon)
    }

    /// Brings the maps to what `rule` and the world ask for.
    pub(super) fn follow(
        &mut self,
        frontend: Frontend,
        rule: &Arc<Rule>,
        (mode, gate): (Mode, Gate),
        next_hops: &NextHops,
    ) -> Result<(), Failure> {
        let is_new = self.image.id(&frontend).is_none();
        let writes = self
            .image
            .upsert(frontend, rule, (mode, gate), |address| next_hops.next_hop(address), now())
            .map_err(Failure::NoRoom)?;
        let result = self.maps.apply(writes);
        if result.is_err() && is_new {
            // As far as that goes; the kernel's word is what counts.
            let writes = self.image.remove(&frontend, now());
            let _ = self.maps.apply(writes);
        }
        result.map_err(Failure::Kernel)
    }

    /// Replies to these addresses are looked at from now on.
    pub(super) fn add_sources(&mut self, next_hops: &NextHops) -> io::Result<()> {
        let mut settings = self.settings;
        let mut known: Vec<Address> =
            settings.snat.iter().copied().filter(|address| !address.is_unspecified()).collect();
        for source in next_hops.sources().into_iter().map(Address::from) {
            if !known.contains(&source) {
                known.push(source);
            }
        }
        // Those that nothing is sent from any more make room, oldest first.
        let excess = known.len().saturating_sub(SNAT_ADDRESSES);
        known.drain(..excess);
        settings.snat = std::array::from_fn(|n| known.get(n).copied().unwrap_or_default());
        if settings != self.settings {
            // What `llb-agent trace` has set meanwhile stays.
            let current = self.maps.settings.get(&0)?.unwrap_or(settings);
            let written =
                Settings { trace_client: current.trace_client, trace_mask: current.trace_mask, ..settings };
            self.maps.settings.insert(&0, &written)?;
            self.settings = settings;
        }
        Ok(())
    }
}
