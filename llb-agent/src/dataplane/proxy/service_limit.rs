//! How many TCP connections each Service has open, over all its frontends, and
//! whether one more may be. The limit of all Services together is elsewhere.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::ServiceName;

/// The counts; a Service without connections has none.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceCounts {
    open: Arc<Mutex<HashMap<ServiceName, u32>>>,
}

/// One open connection of a Service, until dropped.
#[derive(Debug)]
pub(super) struct ServicePermit {
    counts: ServiceCounts,
    service: ServiceName,
}

impl ServiceCounts {
    /// Counts one more; `None` if `limit` are open already. What has no limit
    /// is counted too, since it may get one at any time.
    pub(super) fn admit(&self, service: &ServiceName, limit: Option<NonZeroU32>) -> Option<ServicePermit> {
        let mut open = self.lock();
        let count = open.get(service).copied().unwrap_or(0);
        if limit.is_some_and(|limit| count >= limit.get()) {
            return None;
        }
        open.insert(service.clone(), count.saturating_add(1));
        drop(open);
        Some(ServicePermit { counts: self.clone(), service: service.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceName, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ServicePermit {
    fn drop(&mut self) {
        let mut open = self.counts.lock();
        if let Some(count) = open.get_mut(&self.service) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.service);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_what_was_admitted_without_one_and_concerns_one_service() {
        let counts = ServiceCounts::default();
        let (web, dns) = (ServiceName::new("default", "web"), ServiceName::new("default", "dns"));
        let two = NonZeroU32::new(2);
        let before = counts.admit(&web, None);
        let second = counts.admit(&web, two);
        assert!(before.is_some() && second.is_some());
        assert!(counts.admit(&web, two).is_none());
        assert!(counts.admit(&dns, two).is_some());
        drop(before);
        assert!(counts.admit(&web, two).is_some());
        drop(second);
        assert!(counts.lock().is_empty());
    }
}
