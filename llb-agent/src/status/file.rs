// SPDX-License-Identifier: Apache-2.0
//! Writes the statuses of Services from manifests to a JSON file in the state folder, so
//! that a Service keeps its VIP over a restart. Events are log lines.
//!
//! One order at a time writes the file, on a thread for blocking work. It also writes all
//! orders that wait by then; these find their work done. If the write fails, only that
//! order fails, and the others try again. `observe` returns only what is in the file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use tokio::task::spawn_blocking;

use super::{Effect, Event, StatusError, StatusOrder, StatusSink};
use crate::model::{ProblemReason, PublishedStatus, ServiceName, Snapshot};
use crate::statefile;

const FILE_NAME: &str = "status.json";

/// Writes to a file. All clones share it.
#[derive(Clone, Debug)]
pub struct FileStatuses {
    path: PathBuf,
    statuses: Arc<Mutex<Statuses>>,
    /// Locked by the order that writes the file.
    writing: Arc<AsyncMutex<()>>,
}

#[derive(Debug, Default)]
struct Statuses {
    /// What the file has.
    written: BTreeMap<ServiceName, PublishedStatus>,
    /// The orders that are not written yet, each with its number.
    ordered: BTreeMap<ServiceName, (u64, PublishedStatus)>,
    /// The number of the last order.
    orders: u64,
}

impl FileStatuses {
    /// Reads what an earlier agent wrote. A file that cannot be read is reported and set
    /// aside; at worst, Services get other VIPs from the pool.
    pub fn open(state_dir: &std::path::Path) -> Self {
        let path = state_dir.join(FILE_NAME);
        let entries: Vec<(String, String, PublishedStatus)> =
            statefile::read_or_set_aside(&path).unwrap_or_default();
        let statuses =
            entries.into_iter().map(|(namespace, name, status)| (ServiceName::new(namespace, name), status));
        let statuses = Statuses { written: statuses.collect(), ..Statuses::default() };
        Self { path, statuses: Arc::new(Mutex::new(statuses)), writing: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Statuses> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all orders. Waits for the disk, and does not lock `statuses` meanwhile.
    fn write_all_ordered(&self) -> Result<(), StatusError> {
        let (mut merged, batch) = {
            let statuses = self.lock();
            (statuses.written.clone(), statuses.ordered.clone())
        };
        merged.extend(batch.iter().map(|(name, (_, status))| (name.clone(), status.clone())));
        let entries: Vec<(&str, &str, &PublishedStatus)> =
            merged.iter().map(|(name, status)| (&*name.namespace, &*name.name, status)).collect();
        statefile::write(&self.path, &entries)
            .map_err(|source| StatusError::File { path: self.path.display().to_string(), source })?;
        let mut statuses = self.lock();
        for (name, (number, status)) in batch {
            statuses.forget(&name, number);
            statuses.written.insert(name, status);
        }
        Ok(())
    }
}

impl Statuses {
    /// Removes an order, unless a later one for the same Service has replaced it.
    fn forget(&mut self, service: &ServiceName, number: u64) {
        if self.is_ordered(service, number) {
            self.ordered.remove(service);
        }
    }

    fn is_ordered(&self, service: &ServiceName, number: u64) -> bool {
        self.ordered.get(service).is_some_and(|(latest, _)| *latest == number)
    }
}

impl StatusSink for FileStatuses {
    fn observe(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, PublishedStatus> {
        // A status in a manifest says nothing about this machine: the file may come from another
        // cluster (`kubectl get -o yaml`). `kubectl apply` ignores it too.
        let written = &mut self.lock().written;
        // A deleted Service gives its VIP back. A Service is not deleted if its file cannot be read now.
        let complete =
            snapshot.problems.iter().all(|problem| problem.reason != ProblemReason::InvalidManifest);
        written.retain(|name, _| !complete || snapshot.services.contains_key(name));
        let known = written.iter().filter(|(name, _)| snapshot.services.contains_key(name));
        known.map(|(name, status)| (name.clone(), status.clone())).collect()
    }

    async fn write(&self, order: StatusOrder) -> Result<Effect, StatusError> {
        let StatusOrder { service, status, .. } = order;
        let number = {
            let mut statuses = self.lock();
            statuses.orders += 1;
            let number = statuses.orders;
            statuses.ordered.insert(service.clone(), (number, status));
            number
        };
        let guard = self.writing.clone().lock_owned().await;
        if !self.lock().is_ordered(&service, number) {
            return Ok(Effect::Done);
        }
        let this = self.clone();
        let written = spawn_blocking(move || {
            // Moved in here because the task may be cancelled before the write ends.
            let _guard = guard;
            let result = this.write_all_ordered();
            this.lock().forget(&service, number);
            result.map(|()| Effect::Done)
        });
        written.await.unwrap_or_else(|error| {
            let path = self.path.display().to_string();
            Err(StatusError::File { path, source: error.into() })
        })
    }

    fn record(&self, event: Event) {
        // An Event of a problem repeats the log line of that problem.
        if !event.warning {
            tracing::info!(service = %event.service, reason = event.reason, "{}", event.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;
    use crate::model::{PublishedVip, Service};

    const LIMIT: Duration = Duration::from_secs(10);

    fn order(name: &str) -> StatusOrder {
        let vip = PublishedVip { ip: "192.0.2.1".parse().unwrap(), proxy: true, ports: Vec::new() };
        let service = ServiceName::new("default", name);
        StatusOrder {
            service,
            uid: String::new(),
            revision: String::new(),
            conditions: None,
            status: PublishedStatus { vips: [vip].into(), ..PublishedStatus::default() },
            removes_finalizer: false,
        }
    }

    fn spawn_all(statuses: &FileStatuses, count: usize) -> JoinSet<Result<Effect, StatusError>> {
        let write = |index| {
            let statuses = statuses.clone();
            async move { statuses.write(order(&format!("s{index}"))).await }
        };
        (0..count).map(write).collect()
    }

    #[tokio::test]
    async fn statuses_outlive_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let order = order("web");
        FileStatuses::open(folder.path()).write(order.clone()).await.unwrap();
        assert_eq!(FileStatuses::open(folder.path()).lock().written.get(&order.service), Some(&order.status));
    }

    #[tokio::test]
    async fn a_status_in_a_manifest_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let order = order("web");
        let service = Service { status: order.status, ..Service::default() };
        let snapshot = Snapshot { services: [(order.service, service.into())].into(), ..Snapshot::default() };
        assert!(FileStatuses::open(folder.path()).observe(&snapshot).is_empty());
    }

    #[tokio::test]
    async fn a_broken_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), "[[\"half").unwrap();
        assert!(FileStatuses::open(folder.path()).lock().written.is_empty());
        assert!(folder.path().join("status.json.unreadable").exists());
    }

    /// One thread runs all tasks here, and the disk, a pipe that nobody reads, hangs.
    #[tokio::test]
    async fn a_slow_disk_delays_no_task_and_a_failed_write_is_not_observed() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("status.tmp");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (end_wait, waiting) = mpsc::sync_channel(1);
        let reader = {
            let pipe = pipe.clone();
            thread::spawn(move || (waiting.recv_timeout(LIMIT).is_ok(), File::open(pipe).unwrap()))
        };
        let statuses = FileStatuses::open(folder.path());
        let mut writes = spawn_all(&statuses, 20);
        while statuses.lock().orders < 20 {
            tokio::task::yield_now().await;
        }
        assert!(statuses.observe(&Snapshot::default()).is_empty());
        end_wait.send(()).unwrap();
        // A pipe cannot be synced (fsync(2): EINVAL), so each order fails.
        while let Some(result) = tokio::time::timeout(LIMIT, writes.join_next()).await.unwrap() {
            assert!(matches!(result.unwrap(), Err(StatusError::File { .. })));
        }
        let (in_time, _pipe) = reader.join().unwrap();
        assert!(in_time, "the tasks waited for the disk");
        assert!(statuses.lock().written.is_empty() && statuses.lock().ordered.is_empty());

        fs::remove_file(&pipe).unwrap();
        statuses.write(order("web")).await.unwrap();
        let names: Vec<_> = FileStatuses::open(folder.path()).lock().written.keys().cloned().collect();
        assert_eq!(names, [ServiceName::new("default", "web")]);
    }

    #[tokio::test]
    async fn waiting_orders_are_written_together() {
        let folder = tempfile::tempdir().unwrap();
        let statuses = FileStatuses::open(folder.path());
        let guard = statuses.writing.lock().await;
        let mut writes = spawn_all(&statuses, 100);
        while statuses.lock().orders < 100 {
            tokio::task::yield_now().await;
        }
        drop(guard);
        writes.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(FileStatuses::open(folder.path()).lock().written.len(), 100);
        while let Some(result) = writes.join_next().await {
            result.unwrap().unwrap();
        }
        assert_eq!(statuses.lock().written.len(), 100);
    }
}
