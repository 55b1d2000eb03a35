// SPDX-License-Identifier: Apache-2.0
//! Carries out actions. Behaviour does not live here: one `match`, one call each.

use std::collections::BTreeMap;
use std::time::Instant;

use super::conditions::ProblemsOf;
use super::outcome::{Failed, Outcome};
use super::writes::Writes;
use crate::addresses::{Addition, AddressError, AddressTable};
use crate::dataplane::DataPlane;
use crate::model::{Conditions, Finalizer, PublishedStatus, ServiceName, Snapshot};
use crate::plan::Action;
use crate::status::{Effect, StatusOrder, StatusSink};

/// What actions change.
#[derive(Debug)]
pub struct Rooms<P, A, S> {
    /// Forwards.
    pub plane: P,
    /// VIPs on links.
    pub addresses: A,
    /// Statuses and Events.
    pub statuses: S,
}

/// What stays the same during one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundInput<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// What the statuses said when the round began.
    pub(super) published: &'a BTreeMap<ServiceName, PublishedStatus>,
    /// The problems of Services.
    pub(super) problems: &'a ProblemsOf<'a>,
    /// The time by which retries are measured.
    pub(super) now: Instant,
}

/// How far an action is after [`Rooms::execute`].
#[derive(Debug)]
pub(super) enum Execution {
    /// It has ended.
    Ended(Outcome),
    /// It goes on beside the loop: a status write, or the probe for an address.
    /// The loop is woken up when that ends.
    Running,
}

impl<P: DataPlane, A: AddressTable, S: StatusSink> Rooms<P, A, S> {
    /// Runs one action, or starts it: a status write goes on in `writes`, and writes `conditions` too.
    pub(super) async fn execute(
        &mut self,
        action: Action,
        conditions: Option<Conditions>,
        input: RoundInput<'_>,
        writes: &mut Writes,
    ) -> Execution {
        let result = match &action {
            Action::ProbeAddress { key } => match ended(self.addresses.probe(key).await) {
                Some(result) => result,
                None => return Execution::Running,
            },
            Action::UpsertFrontend { frontend, rule } => {
                let served = self.plane.upsert(*frontend, rule).await;
                served.map_err(|error| Failed { reason: error.reason(), ..Failed::new(error) })
            }
            Action::RemoveFrontend { frontend } => {
                self.plane.remove(frontend);
                Ok(())
            }
            Action::AddAddress { key, prefix_length } => {
                match ended(self.addresses.add(key, *prefix_length).await) {
                    Some(result) => result,
                    None => return Execution::Running,
                }
            }
            Action::RemoveAddress { key, prefix_length } => {
                self.addresses.remove(key, *prefix_length).await.map_err(Failed::new)
            }
            Action::WriteStatus { service, status } => {
                let order = order(service, status.clone(), conditions, input);
                self.start(action, order, input, writes);
                return Execution::Running;
            }
            Action::WriteConditions { service, conditions } => {
                let status = input.published.get(service).cloned().unwrap_or_default();
                let order = order(service, status, Some(Conditions::clone(conditions)), input);
                self.start(action, order, input, writes);
                return Execution::Running;
            }
        };
        let result = result.map(|()| Effect::Done);
        Execution::Ended(Outcome { action, replaced: PublishedStatus::default(), result })
    }

    /// Starts a status write.
    fn start(&self, action: Action, order: StatusOrder, input: RoundInput<'_>, writes: &mut Writes) {
        let replaced = input.published.get(&order.service).cloned().unwrap_or_default();
        let statuses = self.statuses.clone();
        let write = async move { statuses.write(order).await.map_err(Failed::new) };
        writes.start(action, replaced, write);
    }
}

fn order(
    service: &ServiceName,
    status: PublishedStatus,
    conditions: Option<Conditions>,
    input: RoundInput<'_>,
) -> StatusOrder {
    let known = input.snapshot.services.get(service);
    let has_finalizer =
        input.published.get(service).is_some_and(|published| published.finalizer == Finalizer::Ours);
    StatusOrder {
        service: service.clone(),
        uid: known.map(|known| known.uid.clone()).unwrap_or_default(),
        revision: known.map(|known| known.revision.clone()).unwrap_or_default(),
        removes_finalizer: has_finalizer && status.finalizer == Finalizer::Absent,
        status,
        conditions,
    }
}

/// `None` while probes are under way.
fn ended(answer: Result<Addition, AddressError>) -> Option<Result<(), Failed>> {
    match answer {
        Ok(Addition::Done) => Some(Ok(())),
        Ok(Addition::Pending) => None,
        Err(error) => Some(Err(Failed { reason: error.reason(), ..Failed::new(error) })),
    }
}
