//! Statuses of Services that come from manifests: a JSON file in the state
//! folder, so that a Service keeps its VIP over a restart. Events are log lines.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Effect, Event, StatusError, StatusOrder, StatusSink};
use crate::model::{ProblemReason, PublishedStatus, ServiceName, Snapshot};
use crate::statefile;

const FILE_NAME: &str = "status.json";

/// Shared by all clones.
#[derive(Clone, Debug)]
pub struct FileStatuses {
    path: PathBuf,
    statuses: Arc<Mutex<BTreeMap<ServiceName, PublishedStatus>>>,
}

impl FileStatuses {
    /// Reads what an earlier run wrote. A file that makes no sense is reported
    /// and put aside: the worst that follows is another VIP from the pool.
    pub fn open(state_dir: &std::path::Path) -> Self {
        let path = state_dir.join(FILE_NAME);
        let entries: Vec<(String, String, PublishedStatus)> =
            statefile::read_or_set_aside(&path).unwrap_or_default();
        let statuses =
            entries.into_iter().map(|(namespace, name, status)| (ServiceName { namespace, name }, status));
        Self { path, statuses: Arc::new(Mutex::new(statuses.collect())) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceName, PublishedStatus>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatusSink for FileStatuses {
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus> {
        // A manifest may bring a status of its own; it counts until llb wrote one.
        let given = snapshot.services.iter().map(|(name, service)| (name.clone(), service.status.clone()));
        let mut statuses: BTreeMap<_, _> = given.filter(|(_, status)| !status.vips.is_empty()).collect();
        let mut written = self.lock();
        // A deleted Service gives its VIP back; one in a file that can't be read now is not deleted.
        let complete =
            snapshot.problems.iter().all(|problem| problem.reason != ProblemReason::InvalidManifest);
        written.retain(|name, _| !complete || snapshot.services.contains_key(name));
        let known = written.iter().filter(|(name, _)| snapshot.services.contains_key(name));
        statuses.extend(known.map(|(name, status)| (name.clone(), status.clone())));
        statuses
    }

    async fn write(&self, order: StatusOrder) -> Result<Effect, StatusError> {
        let mut statuses = self.lock();
        let before = statuses.insert(order.service.clone(), order.status);
        let entries: Vec<(&str, &str, &PublishedStatus)> = statuses
            .iter()
            .map(|(name, status)| (name.namespace.as_str(), name.name.as_str(), status))
            .collect();
        let result = statefile::write(&self.path, &entries);
        result.map(|()| Effect::Done).map_err(|source: io::Error| {
            match before {
                Some(status) => statuses.insert(order.service, status),
                None => statuses.remove(&order.service),
            };
            StatusError::File { path: self.path.display().to_string(), source }
        })
    }

    async fn record(&self, event: Event) {
        if event.warning {
            tracing::warn!(service = %event.service, reason = event.reason, "{}", event.message);
        } else {
            tracing::info!(service = %event.service, reason = event.reason, "{}", event.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PublishedVip;

    #[tokio::test]
    async fn statuses_outlive_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let service = ServiceName::new("default", "web");
        let vips = vec![PublishedVip { ip: "192.0.2.1".parse().unwrap(), proxy: true, ports: Vec::new() }];
        let order = StatusOrder {
            service: service.clone(),
            uid: String::new(),
            revision: String::new(),
            status: PublishedStatus { vips },
        };
        FileStatuses::open(folder.path()).write(order.clone()).await.unwrap();
        assert_eq!(FileStatuses::open(folder.path()).lock().get(&service), Some(&order.status));
    }

    #[tokio::test]
    async fn a_broken_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "[[\"half").unwrap();
        assert!(FileStatuses::open(folder.path()).lock().is_empty());
        assert!(folder.path().join("status.json.unreadable").exists());
    }
}
