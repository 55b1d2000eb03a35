// SPDX-License-Identifier: Apache-2.0
//! Counts the open TCP connections of each Service, over all its frontends, and
//! refuses more than its limit. The limit of all Services together is in
//! `plane_context.rs`.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::model::ServiceName;

/// The counts of all Services that have a frontend or a connection.
#[derive(Debug, Default)]
pub(super) struct ServiceCounts {
    known: Mutex<HashMap<ServiceName, Weak<ServiceCount>>>,
}

/// Connections that one Service has open.
#[derive(Debug, Default)]
pub(super) struct ServiceCount(AtomicU32);

/// One open connection of a Service, until dropped.
#[derive(Debug)]
pub(super) struct ServicePermit(Arc<ServiceCount>);

impl ServiceCounts {
    /// The count of `service`. All callers share one.
    pub(super) fn of(&self, service: &ServiceName) -> Arc<ServiceCount> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.get(service).and_then(Weak::upgrade) {
            return count;
        }
        if known.len() == known.capacity() {
            known.retain(|_, count| count.strong_count() > 0);
        }
        let count = Arc::default();
        known.insert(service.clone(), Arc::downgrade(&count));
        count
    }
}

impl ServiceCount {
    /// Counts one more; `None` if `limit` connections are open already. A Service
    /// without a limit is counted too, because it may get one at any time.
    pub(super) fn admit(self: &Arc<Self>, limit: Option<NonZeroU32>) -> Option<ServicePermit> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let permit = ServicePermit(Arc::clone(self));
        limit.is_none_or(|limit| before < limit.get()).then_some(permit)
    }
}

impl Drop for ServicePermit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_connections_from_before_it_and_only_those_of_its_service() {
        let counts = ServiceCounts::default();
        let (web, dns) = (ServiceName::new("default", "web"), ServiceName::new("default", "dns"));
        let two = NonZeroU32::new(2);
        let before = counts.of(&web).admit(None);
        let second = counts.of(&web).admit(two);
        assert!(before.is_some() && second.is_some());
        assert!(counts.of(&web).admit(two).is_none());
        assert!(counts.of(&dns).admit(two).is_some());
        drop(before);
        assert!(counts.of(&web).admit(two).is_some());
    }
}
