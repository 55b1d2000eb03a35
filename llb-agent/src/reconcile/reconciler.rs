// SPDX-License-Identifier: Apache-2.0
//! The state of the loop, and the two things that all of its parts do: read
//! back what is, and send Events. What happens in a round is in `round.rs`.

use std::sync::Arc;
use std::time::Instant;

use super::conditions::Pace;
use super::executor::Rooms;
use super::lasting::Lasting;
use super::machine::Machine;
use super::metrics::ReconcileMetrics;
use super::overwrites::Overwrites;
use super::placements::Placements;
use super::problem_log::ProblemLog;
use super::progress::{Progress, Stage};
use super::reporter::Reporter;
use super::resting::Resting;
use super::writes::Writes;
use crate::addresses::{AddressError, AddressTable};
use crate::config::Policy;
use crate::dataplane::DataPlane;
use crate::error_chain::ErrorChain;
use crate::model::{
    AddressKey, Facts, Observed, Problem, ProblemReason, Role, Snapshot, State, StatusWriter, Subject,
};
use crate::status::{Event, StatusSink};

/// The loop.
#[derive(Debug)]
pub struct Reconciler<P, A, S> {
    /// What is changed.
    pub rooms: Rooms<P, A, S>,
    pub(super) policy: Policy,
    pub(super) metrics: ReconcileMetrics,
    pub(super) machine: Machine,
    pub(super) overwrites: Overwrites,
    pub(super) reporter: Reporter,
    pub(super) problem_log: ProblemLog,
    pub(super) conditions: Pace,
    /// The problems that the last round found after it had decided.
    pub(super) found_late: Vec<Problem>,
    /// The problems that are told.
    pub(super) lasting: Lasting<Problem>,
    pub(super) placements: Placements,
    pub(super) resting: Resting,
    pub(super) facts: Facts,
    /// What was decided last.
    pub(super) desired: Arc<State>,
    pub(super) stage: Stage,
    pub(super) progress: Progress,
    pub(super) writes: Writes,
    /// Which agent of the group wrote statuses in the last round.
    pub(super) writer: StatusWriter,
}

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// A loop that has not run yet.
    pub fn new(rooms: Rooms<P, A, S>, policy: Policy, metrics: ReconcileMetrics) -> Self {
        Self {
            rooms,
            policy,
            metrics,
            machine: Machine::default(),
            overwrites: Overwrites::default(),
            reporter: Reporter::default(),
            problem_log: ProblemLog::default(),
            conditions: Pace::default(),
            found_late: Vec::new(),
            lasting: Lasting::default(),
            placements: Placements::default(),
            resting: Resting::default(),
            facts: Facts::default(),
            desired: Arc::default(),
            stage: Stage::default(),
            progress: Progress::default(),
            writes: Writes::default(),
            writer: StatusWriter { role: Role::Pending, ..StatusWriter::default() },
        }
    }

    /// Reads back what is. If the links can't be read, the round is [`Progress::Unreadable`].
    pub(super) async fn observe(&mut self, snapshot: &Snapshot) -> Result<Observed, Problem> {
        self.facts = match self.read_facts().await {
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
            conditions: self.rooms.statuses.conditions(snapshot),
        };
        Ok(observed)
    }

    async fn read_facts(&mut self) -> Result<Facts, AddressError> {
        let links = self.rooms.addresses.observe().await?;
        Ok(Facts { links, host: self.rooms.addresses.host().await? })
    }

    /// Sends Events beside the loop, if this agent is the one of its group that does.
    pub(super) fn send(&self, events: impl IntoIterator<Item = Event>) {
        if self.writer.writes() {
            events.into_iter().for_each(|event| self.rooms.statuses.record(event));
        }
    }

    /// Asks which agent of the group writes now.
    pub(super) fn look_for_the_writer(&mut self, now: Instant) {
        let writer = self.rooms.statuses.writer();
        if writer.writes() && !self.writer.writes() {
            // What another agent had until now may be free.
            self.machine.retry_now(now);
        }
        self.metrics.writer.set(i64::from(writer.writes()));
        self.writer = writer;
    }
}
