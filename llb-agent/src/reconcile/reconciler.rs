// SPDX-License-Identifier: Apache-2.0
//! The state of the loop, and the two things that all of its parts do: read
//! back what is, and send Events. What happens in a round is in `round.rs`.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::dead_backends::DeadBackends;
use super::executor::Rooms;
use super::machine::Machine;
use super::metrics::ReconcileMetrics;
use super::placements::Placements;
use super::problem_log::ProblemLog;
use super::progress::{Progress, Stage};
use super::reporter::Reporter;
use super::resting::Resting;
use super::writes::Writes;
use crate::addresses::{AddressError, AddressTable};
use crate::config::Policy;
use crate::dataplane::DataPlane;
use crate::desired::pods_that_need_routes;
use crate::error_chain::ErrorChain;
use crate::health::Health;
use crate::model::{AddressKey, Facts, Observed, Problem, ProblemReason, Snapshot, State, Subject};
use crate::status::{Event, StatusSink};

/// The loop.
#[derive(Debug)]
pub struct Reconciler<P, A, S> {
    /// What is changed.
    pub rooms: Rooms<P, A, S>,
    pub(super) policy: Policy,
    pub(super) metrics: ReconcileMetrics,
    pub(super) machine: Machine,
    pub(super) reporter: Reporter,
    pub(super) problem_log: ProblemLog,
    pub(super) placements: Placements,
    pub(super) dead_backends: DeadBackends,
    pub(super) resting: Resting,
    pub(super) health: Health,
    pub(super) facts: Facts,
    /// What was decided last.
    pub(super) desired: Arc<State>,
    pub(super) stage: Stage,
    pub(super) progress: Progress,
    pub(super) writes: Writes,
    /// Events that are being sent.
    pub(super) sending: JoinSet<()>,
}

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// A loop that has not run yet.
    pub fn new(rooms: Rooms<P, A, S>, policy: Policy, metrics: ReconcileMetrics) -> Self {
        Self {
            rooms,
            policy,
            metrics,
            machine: Machine::default(),
            reporter: Reporter::default(),
            problem_log: ProblemLog::default(),
            placements: Placements::default(),
            dead_backends: DeadBackends::default(),
            resting: Resting::default(),
            health: Health::default(),
            facts: Facts::default(),
            desired: Arc::default(),
            stage: Stage::default(),
            progress: Progress::default(),
            writes: Writes::default(),
            sending: JoinSet::new(),
        }
    }

    /// From now on, backends are asked whether they work.
    pub fn set_health(&mut self, health: Health) {
        self.health = health;
    }

    /// Reads back what is. If the links can't be read, the round is [`Progress::Unreadable`].
    pub(super) async fn observe(&mut self, snapshot: &Snapshot) -> Result<Observed, Problem> {
        self.facts = match self.read_facts(snapshot).await {
            Ok(facts) => facts,
            Err(error) => {
                self.progress = Progress::Unreadable;
                return Err(Problem {
                    subject: Subject::Link("devices".to_owned()),
                    reason: ProblemReason::ActionFailed,
                    message: ErrorChain(&error).to_string(),
                });
            }
        };
        let addresses = self.facts.links.iter().flat_map(|link| {
            let ours = link.addresses.iter().filter(|known| known.ours);
            ours.map(|known| {
                let key = AddressKey { link: link.name.clone(), address: known.net.addr() };
                (key, known.net.prefix_len())
            })
        });
        self.rooms.plane.advance();
        let observed = Observed {
            frontends: self.rooms.plane.observe(),
            addresses: addresses.collect(),
            statuses: self.rooms.statuses.observe(snapshot),
            ..Observed::default()
        };
        Ok(observed)
    }

    async fn read_facts(&mut self, snapshot: &Snapshot) -> Result<Facts, AddressError> {
        let links = self.rooms.addresses.observe().await?;
        let pods = pods_that_need_routes(snapshot, &self.policy);
        Ok(Facts { links, host: self.rooms.addresses.host(pods).await? })
    }

    /// Sends Events beside the loop.
    pub(super) fn send(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let statuses = self.rooms.statuses.clone();
            self.sending.spawn(async move { statuses.record(event).await });
        }
        while self.sending.try_join_next().is_some() {}
    }
}
