// SPDX-License-Identifier: Apache-2.0
//! The plane's logic between rules and maps: frontends are served, closed, drained and
//! removed. It writes through [`MapStore`], and takes time and next hops as arguments.
//!
//! ```text
//!                .--- follow (a rule; also after each change of next hops) ---.
//!                v                                                            |
//!   (absent) --follow--> served --close--> draining --last flow, or time--> (absent)
//!                                             |                               ^
//!                                             `----------- follow ------------'--> served
//! ```
//!
//! Invariant: the image is what the maps hold. A write that fails leaves that in doubt, so
//! the image is read back then, and the frontend's rule is unknown until it is written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use llb_common::backend::BackendId;
use llb_common::settings::Settings;
use llb_common::time::Tick;
use tokio::time::Instant;

use super::drain::Drain;
use super::failures::Failures;
use super::image::{Gate, Limits, MapImage, NextHop, Served, Write};
use super::map_store::MapStore;
use super::moves::{Moves, Placed};
use super::readiness::Readiness;
use super::refusal::Refusal;
use super::suspects::TestCounts;
use super::sweep::FlowCounts;
use crate::dataplane::placement::PacketMode;
use crate::error_chain::ErrorChain;
use crate::model::{FailureReason, Frontend, Mode, PacketObstacle, Rule};

/// What the plane has in the maps `M`, and what it still has to do there.
#[derive(Debug)]
pub(super) struct State<M> {
    pub(super) image: MapImage,
    pub(super) maps: Arc<M>,
    /// Frontends that take no new flows.
    pub(super) drains: BTreeMap<Frontend, Drain>,
    /// What prevents mode DSR, for frontends whose rule asks for it.
    pub(super) not_dsr: BTreeMap<Frontend, PacketObstacle>,
    /// Frontends whose backends in the maps may have old next hops.
    pub(super) behind: BTreeSet<Frontend>,
    /// Backends that failed the agent's tests.
    pub(super) dead: BTreeMap<BackendId, FailureReason>,
    /// How many tests there were.
    pub(super) tests: TestCounts,
    /// Frontends that are refused, or should be placed anew.
    pub(super) moves: Moves,
    /// All dead backends as of the last look, also those to which there is no way.
    pub(super) failures: Failures,
    /// Flows as of the last sweep.
    pub(super) flows: FlowCounts,
    /// Which Nodes get clients in mode DSR.
    pub(super) readiness: Readiness,
    /// The programs' settings as they were written last.
    pub(super) settings: Settings,
    /// The image may differ from the maps, because it could not be read back.
    pub(super) is_in_doubt: bool,
}

impl<M: MapStore> State<M> {
    /// Begins with what the maps hold.
    ///
    /// # Errors
    /// The maps can't be read.
    pub(super) fn read_back(maps: Arc<M>, limits: Limits) -> io::Result<Self> {
        let mut state = Self {
            image: MapImage::empty(limits),
            maps,
            drains: BTreeMap::new(),
            not_dsr: BTreeMap::new(),
            behind: BTreeSet::new(),
            dead: BTreeMap::new(),
            tests: TestCounts::default(),
            moves: Moves::default(),
            failures: Failures::default(),
            flows: FlowCounts::default(),
            readiness: Readiness::default(),
            settings: Settings::default(),
            is_in_doubt: true,
        };
        state.settle_doubt()?;
        Ok(state)
    }

    /// Serves `frontend` by `rule`, which ends a drain of it.
    ///
    /// # Errors
    /// As [`State::follow`].
    pub(super) fn serve(
        &mut self,
        frontend: Frontend,
        rule: &Arc<Rule>,
        (placed, gate): (PacketMode, Gate),
        next_hop: impl Fn(IpAddr) -> Option<NextHop>,
        now: Tick,
    ) -> Result<(), Refusal> {
        self.follow(frontend, rule, (placed.mode, gate), next_hop, now)?;
        self.drains.remove(&frontend);
        match placed.not_dsr {
            Some(obstacle) => drop(self.not_dsr.insert(frontend, obstacle)),
            None => drop(self.not_dsr.remove(&frontend)),
        }
        Ok(())
    }

    /// Brings the maps to what `rule` and the next hops ask for.
    ///
    /// # Errors
    /// A frontend that was served before is still served, and its rule may be unknown.
    /// A new one is not served.
    pub(super) fn follow(
        &mut self,
        frontend: Frontend,
        rule: &Arc<Rule>,
        (mode, gate): (Mode, Gate),
        next_hop: impl Fn(IpAddr) -> Option<NextHop>,
        now: Tick,
    ) -> Result<(), Refusal> {
        self.settle_doubt().map_err(Refusal::ReadMaps)?;
        let is_new = !self.image.has(&frontend);
        self.follow_nodes(frontend, rule, (mode, gate));
        let waits = |address| self.readiness.waits(&frontend, address);
        let next_hop = |address| next_hop(address).map(|hop| NextHop { waits: waits(address), ..hop });
        let writes = self.image.upsert(frontend, rule, (mode, gate), next_hop, now);
        if is_new && writes.is_err() {
            self.readiness.forget(&frontend);
        }
        let writes = writes?;
        if let Err(error) = self.commit(&writes) {
            self.image.forget_rule(&frontend);
            if is_new {
                self.take_back(&frontend, now);
            }
            return Err(Refusal::WriteMaps(error));
        }
        self.behind.remove(&frontend);
        Ok(())
    }

    /// Notes which Nodes `frontend` has. Where mode NAT takes over what a Node sends back, none has to wait.
    fn follow_nodes(&mut self, frontend: Frontend, rule: &Rule, (mode, gate): (Mode, Gate)) {
        if mode == Mode::Nat || rule.nat_instead {
            self.readiness.forget(&frontend);
        } else if gate != Gate::KnownFlowsOnly {
            let has_clients = |node| self.image.has_clients(&frontend, node);
            self.readiness.follow(frontend, &rule.addresses(), has_clients);
        }
    }

    /// The addresses of all backends that are served or refused.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let refused = self.moves.refused().flat_map(|rule| rule.backends.keys());
        let mut all = self.image.addresses();
        all.extend(refused.map(|backend| backend.address.ip()));
        all
    }

    /// The frontends that take new flows, with the modes in which they are served, as far as their rules are known.
    pub(super) fn placed(&self) -> Vec<Placed> {
        let open = self.image.frontends().filter(|served| !self.drains.contains_key(served.frontend));
        let placed = open.filter_map(|Served { frontend, rule, mode, .. }| {
            let mode = PacketMode { mode, not_dsr: self.not_dsr.get(frontend).copied() };
            Some(Placed { frontend: *frontend, rule: Arc::clone(rule?), mode })
        });
        placed.collect()
    }

    /// Notes that next hops have changed.
    pub(super) fn all_behind(&mut self) {
        self.behind.extend(self.image.frontends().map(|served| *served.frontend));
    }

    /// The frontends whose next hops have changed, as far as their rules are known. The others
    /// are brought up to date with their rule.
    pub(super) fn known_behind(&mut self) -> Vec<(Frontend, Arc<Rule>, Mode, Gate)> {
        let frontends = self.image.frontends().filter(|served| self.behind.contains(served.frontend));
        let known = frontends.filter_map(|served| {
            Some((*served.frontend, Arc::clone(served.rule?), served.mode, served.gate))
        });
        let known: Vec<_> = known.collect();
        self.behind = known.iter().map(|(frontend, ..)| *frontend).collect();
        known
    }

    /// Takes all packets of `frontend`: the relay has no connections of it any more.
    ///
    /// # Errors
    /// The maps can't be written; it is as before.
    pub(super) fn take_all(&mut self, frontend: &Frontend) -> io::Result<()> {
        self.settle_doubt()?;
        let writes = self.image.set_gate(frontend, Gate::Open);
        self.commit(&writes)
    }

    /// Takes no new flows of `frontend` from now on, and removes it when `drain` is over.
    /// `false` if there was nothing to do: it is not there, or ends as soon already.
    ///
    /// # Errors
    /// The maps can't be written; [`State::close_draining`] tries it again.
    pub(super) fn close(&mut self, frontend: &Frontend, drain: Drain) -> io::Result<bool> {
        let is_closed = self.drains.get(frontend).is_some_and(|before| before.is_within(drain));
        if is_closed || !self.image.has(frontend) {
            return Ok(false);
        }
        self.drains.insert(*frontend, drain);
        // When it is served again, Nodes may have removed its rule meanwhile.
        self.readiness.forget(frontend);
        self.settle_doubt()?;
        let writes = self.image.set_gate(frontend, Gate::KnownFlowsOnly);
        self.commit(&writes).map(|()| true)
    }

    /// Closes those draining frontends that could not be closed before.
    ///
    /// # Errors
    /// The maps can't be written.
    pub(super) fn close_draining(&mut self) -> io::Result<()> {
        self.settle_doubt()?;
        let is_open =
            |frontend: &&Frontend| self.image.gate(frontend).is_some_and(|gate| gate != Gate::KnownFlowsOnly);
        let open: Vec<Frontend> = self.drains.keys().filter(is_open).copied().collect();
        open.iter().try_for_each(|frontend| {
            let writes = self.image.set_gate(frontend, Gate::KnownFlowsOnly);
            self.commit(&writes)
        })
    }

    /// Ends all drains now.
    pub(super) fn end_drains(&mut self, now: Instant) {
        self.drains.values_mut().for_each(|drain| *drain = Drain::Until(now));
    }

    /// Whether a frontend will end soon.
    pub(super) fn ends_soon(&self) -> bool {
        self.drains.values().any(|drain| drain.is_limited())
    }

    /// Removes former backends that have no flows.
    ///
    /// # Errors
    /// The maps can't be written; backends that are left are removed later.
    pub(super) fn forget_idle(&mut self, has_flows: impl Fn(BackendId) -> bool) -> io::Result<()> {
        self.settle_doubt()?;
        let writes = self.image.forget_idle(has_flows);
        self.commit(&writes)
    }

    /// The draining frontends that can be removed: they have no open flows, or their time is over.
    ///
    /// # Errors
    /// The maps can't be read.
    pub(super) fn drained(
        &mut self,
        is_open: impl Fn(BackendId) -> bool,
        now: Instant,
    ) -> io::Result<Vec<Frontend>> {
        self.settle_doubt()?;
        let is_drained = |(frontend, drain): &(&Frontend, &Drain)| {
            drain.is_over(now) || !self.image.backends(frontend).any(|(_, entry)| is_open(entry.id))
        };
        Ok(self.drains.iter().filter(is_drained).map(|(frontend, _)| *frontend).collect())
    }

    /// Removes a frontend.
    ///
    /// # Errors
    /// The maps can't be written. It goes on draining.
    pub(super) fn remove(&mut self, frontend: &Frontend, now: Tick) -> io::Result<()> {
        self.settle_doubt()?;
        let writes = self.image.remove(frontend, now);
        self.commit(&writes)?;
        self.drains.remove(frontend);
        self.not_dsr.remove(frontend);
        self.behind.remove(frontend);
        self.readiness.forget(frontend);
        Ok(())
    }

    /// Carries out, in this order. If a write fails, those behind it are not tried.
    fn commit(&mut self, writes: &[Write]) -> io::Result<()> {
        let result = writes.iter().try_for_each(|write| self.maps.write(write));
        if result.is_err() {
            self.is_in_doubt = true;
            if let Err(error) = self.settle_doubt() {
                tracing::warn!(error = %ErrorChain(&error), "cannot read the packet plane's maps");
            }
        }
        result
    }

    /// Removes what was written of a frontend that could not be served. What can't be removed
    /// now is closed, and removed with the drained ones.
    fn take_back(&mut self, frontend: &Frontend, now: Tick) {
        self.readiness.forget(frontend);
        let writes = self.image.remove(frontend, now);
        if self.commit(&writes).is_err() && self.image.has(frontend) {
            self.image.forget_rule(frontend);
            self.drains.insert(*frontend, Drain::UntilLastFlow);
        }
    }

    /// Makes the image what the maps hold, if that is in doubt, and removes what writes that
    /// failed have left over.
    fn settle_doubt(&mut self) -> io::Result<()> {
        if !self.is_in_doubt {
            return Ok(());
        }
        let (image, leftovers) =
            self.image.read_back(self.maps.restore()?, |table| self.maps.slots(table))?;
        self.image = image;
        // What is left over does no harm. If it can't be removed now, the next change tries it again.
        self.is_in_doubt = leftovers.iter().try_for_each(|write| self.maps.write(write)).is_err();
        Ok(())
    }
}
