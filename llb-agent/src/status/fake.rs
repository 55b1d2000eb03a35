// SPDX-License-Identifier: Apache-2.0
//! Statuses and Events in memory, for tests without an API server.
//!
//! A green test with them does not prove that an API server takes the writes:
//! the shape of a patch, conflicts of versions, rights, admission and slow
//! answers are not here. Here a write is seen at once; in a cluster it comes
//! back later with the watch. Nothing fails here either;
//! `tests/simulation/faulty.rs` adds faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Effect, Event, StatusError, StatusOrder, StatusSink};
use crate::model::{Conditions, PublishedStatus, ServiceName, Snapshot, StatusWriter};

/// Shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct FakeStatuses(Arc<Mutex<Inner>>);

/// What was written and sent.
#[derive(Debug, Default)]
pub struct Inner {
    /// The statuses now.
    pub statuses: BTreeMap<ServiceName, PublishedStatus>,
    /// All Events, in order.
    pub events: Vec<Event>,
    /// Services that no longer exist, although the snapshot still has them.
    pub gone: BTreeSet<ServiceName>,
    /// llb's conditions now; `None`: there are none.
    pub conditions: Option<BTreeMap<ServiceName, Conditions>>,
    /// How often something was written.
    pub writes: u32,
    /// Which agent writes.
    pub writer: StatusWriter,
}

impl FakeStatuses {
    /// For a test to look at, or to change.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatusSink for FakeStatuses {
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus> {
        let mut statuses = self.lock().statuses.clone();
        statuses.retain(|name, _| snapshot.services.contains_key(name));
        statuses
    }

    fn conditions(&self, _snapshot: &Snapshot) -> Option<BTreeMap<ServiceName, Conditions>> {
        self.lock().conditions.clone()
    }

    async fn write(&self, order: StatusOrder) -> Result<Effect, StatusError> {
        let mut inner = self.lock();
        let effect = if inner.gone.contains(&order.service) { Effect::Gone } else { Effect::Done };
        inner.writes += 1;
        if let (Some(all), Some(conditions)) = (&mut inner.conditions, order.conditions) {
            all.insert(order.service.clone(), conditions);
        }
        inner.statuses.insert(order.service, order.status);
        Ok(effect)
    }

    fn record(&self, event: Event) {
        self.lock().events.push(event);
    }

    fn writer(&self) -> StatusWriter {
        self.lock().writer.clone()
    }
}
