// SPDX-License-Identifier: Apache-2.0
//! Statuses that were written and that no snapshot shows yet. Pure; the clock is an argument.
//!
//! A write and the watch that shows it go different ways, and other changes of the object may come
//! between. So what was written counts until the watch shows the revision that the write made, or
//! a later one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::{Conditions, PublishedStatus, ServiceName, Snapshot};

/// A watch shows a write long before. After this time the snapshot counts again, whatever its
/// revision: an etcd that was restored from a backup begins with older ones.
const WATCH_LIMIT: Duration = Duration::from_secs(60);

/// What was written, by Service.
#[derive(Debug, Default)]
pub(super) struct WrittenStatuses(BTreeMap<ServiceName, Written>);

/// A status that was written, or whose Service is gone.
#[derive(Debug)]
pub(super) struct Written {
    /// The `resourceVersion` that the snapshot had when the status was ordered.
    pub(super) before: String,
    /// The `resourceVersion` of the answer; `None` if the Service is gone.
    pub(super) after: Option<String>,
    pub(super) status: PublishedStatus,
    /// `None`: they were not written.
    pub(super) conditions: Option<Conditions>,
    pub(super) at: Instant,
}

impl WrittenStatuses {
    pub(super) fn add(&mut self, service: ServiceName, written: Written) {
        self.0.insert(service, written);
    }

    /// Forgets what the snapshot shows.
    pub(super) fn compare(&mut self, snapshot: &Snapshot, now: Instant) {
        self.0.retain(|name, written| {
            let shown = snapshot.services.get(name);
            shown.is_some_and(|service| written.is_newer_than(&service.revision))
                && now.saturating_duration_since(written.at) < WATCH_LIMIT
        });
    }

    pub(super) fn of(&self, service: &ServiceName) -> Option<&PublishedStatus> {
        self.0.get(service).map(|written| &written.status)
    }

    pub(super) fn conditions_of(&self, service: &ServiceName) -> Option<&Conditions> {
        self.0.get(service)?.conditions.as_ref()
    }
}

impl Written {
    /// Whether the snapshot with the Service at `revision` does not show it yet. Revisions of one
    /// kind of object are numbers that grow (KEP-5504). If they are not, any change of the
    /// revision is taken for the write's.
    fn is_newer_than(&self, revision: &str) -> bool {
        if revision == self.before {
            return true;
        }
        let number = |text: &str| text.parse::<u64>().ok();
        let after = self.after.as_deref().and_then(number);
        after.zip(number(revision)).is_some_and(|(after, shown)| shown < after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::model::{PublishedVip, Service};

    fn snapshot(revision: &str) -> Snapshot {
        let service = Service { revision: revision.to_owned(), ..Service::default() };
        let services = [(ServiceName::new("default", "web"), service.into())].into();
        Snapshot { services, ..Snapshot::default() }
    }

    fn written(after: Option<&str>) -> (WrittenStatuses, Instant) {
        let (mut all, at) = (WrittenStatuses::default(), clock::now_std());
        let vip = PublishedVip { ip: "192.0.2.7".parse().unwrap(), proxy: true, ports: Vec::new() };
        let status = PublishedStatus { vips: [vip].into(), ..PublishedStatus::default() };
        let after = after.map(str::to_owned);
        all.add(
            ServiceName::new("default", "web"),
            Written { before: "5".to_owned(), after, status, conditions: None, at },
        );
        (all, at)
    }

    /// Whether the written status counts while the snapshot has this revision.
    fn counts(after: Option<&str>, revision: &str, later: Duration) -> bool {
        let (mut all, at) = written(after);
        all.compare(&snapshot(revision), at + later);
        all.of(&ServiceName::new("default", "web")).is_some()
    }

    #[test]
    fn what_was_written_counts_until_the_watch_shows_it() {
        assert!(counts(Some("9"), "5", Duration::ZERO));
        assert!(counts(Some("9"), "7", Duration::ZERO), "somebody changed the Service before the write");
        assert!(!counts(Some("9"), "9", Duration::ZERO));
        assert!(!counts(Some("9"), "10", Duration::ZERO), "somebody changed it after the write");
    }

    #[test]
    fn a_service_that_is_gone_is_another_one_when_it_is_back() {
        assert!(counts(None, "5", Duration::ZERO));
        assert!(!counts(None, "6", Duration::ZERO));
    }

    #[test]
    fn revisions_that_are_no_numbers_or_have_gone_back_end_it() {
        assert!(!counts(Some("b"), "a", Duration::ZERO));
        assert!(!counts(Some("9"), "5", WATCH_LIMIT));
    }
}
