// SPDX-License-Identifier: Apache-2.0
//! Carries out actions. Behaviour does not live here: one `match`, one call each.

use super::writes::Writes;
use crate::addresses::{Addition, AddressTable};
use crate::dataplane::DataPlane;
use crate::model::{ProblemReason, Snapshot};
use crate::plan::Action;
use crate::status::{Effect, StatusOrder, StatusSink};

/// The rooms that actions change.
#[derive(Debug)]
pub struct Rooms<P, A, S> {
    /// Forwards.
    pub plane: P,
    /// VIPs on links.
    pub addresses: A,
    /// Statuses and Events.
    pub statuses: S,
}

/// How an action that was started ended.
pub type Outcome = (Action, Result<Effect, Failed>);

/// Why an action failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// As a problem, it has this reason.
    pub reason: ProblemReason,
    /// The whole chain of causes.
    pub message: String,
}

impl<P: DataPlane, A: AddressTable, S: StatusSink> Rooms<P, A, S> {
    /// Runs one action. `Some` when it is done; a call to an API server goes
    /// on among `writes` instead, and an address that is probed for wakes the loop.
    pub(super) async fn execute(
        &mut self,
        action: Action,
        snapshot: &Snapshot,
        writes: &mut Writes,
    ) -> Option<Outcome> {
        let result = match &action {
            Action::UpsertFrontend { frontend, rule } => {
                self.plane.upsert(*frontend, rule).await.map_err(failed)
            }
            Action::RemoveFrontend { frontend } => {
                self.plane.remove(frontend);
                Ok(())
            }
            Action::AddAddress { key, prefix_length } => {
                match self.addresses.add(key, *prefix_length).await {
                    Ok(Addition::Done) => Ok(()),
                    Ok(Addition::Pending) => return None,
                    Err(error) => Err(Failed { reason: error.reason(), message: chain(error) }),
                }
            }
            Action::RemoveAddress { key, prefix_length } => {
                self.addresses.remove(key, *prefix_length).await.map_err(failed)
            }
            Action::WriteStatus { service, status } => {
                let known = snapshot.services.get(service);
                let order = StatusOrder {
                    service: service.clone(),
                    uid: known.map(|known| known.uid.clone()).unwrap_or_default(),
                    revision: known.map(|known| known.revision.clone()).unwrap_or_default(),
                    status: status.clone(),
                };
                let statuses = self.statuses.clone();
                writes.start(action, async move { statuses.write(order).await.map_err(failed) });
                return None;
            }
        };
        Some((action, result.map(|()| Effect::Done)))
    }
}

pub(super) fn failed(error: impl std::error::Error) -> Failed {
    Failed { reason: ProblemReason::ActionFailed, message: chain(error) }
}

/// An error with all its causes in one line.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
