// SPDX-License-Identifier: Apache-2.0
//! Statuses in memory, for the simulation. They can be told to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Effect, Event, StatusError, StatusOrder, StatusSink};
use crate::model::{PublishedStatus, ServiceName, Snapshot};

/// Shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct FakeStatuses(Arc<Mutex<Inner>>);

/// What was written and told.
#[derive(Debug, Default)]
pub struct Inner {
    /// The statuses now.
    pub statuses: BTreeMap<ServiceName, PublishedStatus>,
    /// All Events, in order.
    pub events: Vec<Event>,
    /// Services that are gone, although the snapshot has them.
    pub gone: BTreeSet<ServiceName>,
    /// The next so many writes fail.
    pub failures: u32,
}

impl FakeStatuses {
    /// To look at, or to break.
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

    async fn write(&self, order: StatusOrder) -> Result<Effect, StatusError> {
        let mut inner = self.lock();
        if inner.failures > 0 {
            inner.failures -= 1;
            return Err(StatusError::Injected);
        }
        let effect = if inner.gone.contains(&order.service) { Effect::Gone } else { Effect::Done };
        inner.statuses.insert(order.service, order.status);
        Ok(effect)
    }

    async fn record(&self, event: Event) {
        self.lock().events.push(event);
    }
}
