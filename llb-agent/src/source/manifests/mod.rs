// SPDX-License-Identifier: Apache-2.0
//! Objects from a folder or file of Kubernetes YAML or JSON, followed by
//! inotify: the source of the demo, of tests, and of clusters that are none.
//!
//! A file is taken whole or not at all: one that can't be parsed keeps its last
//! good content and is reported with its line. A folder, or a file that was
//! given itself, that is away keeps everything and is reported. A folder is not
//! searched deeper; files whose names begin with a dot, or do not end in .yaml,
//! .yml or .json, are left alone.
//!
//! The path is used as given, links and all: Kubernetes updates a mounted
//! ConfigMap by turning a link to another folder.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;

use super::convert::Converter;
use crate::error_chain::ErrorChain;
use crate::model::{Snapshot, SourceReport};

mod content;
mod files;
mod parse;
#[cfg(test)]
mod tests;

use content::{Content, doubles, problem_of};
use parse::Objects;
pub use parse::ParseError;

/// Changes are read when nothing changed for this long: editors and `cp` write
/// a file in several steps.
const SETTLE: Duration = Duration::from_millis(100);
/// Something that changes all the time must not hide what changed before.
const SETTLE_LONGEST: Duration = Duration::from_secs(1);
/// Read again this often whatever inotify says: network file systems tell it nothing.
const RESCAN: Duration = Duration::from_secs(30);

/// The folder or file can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not there, or not readable.
    #[error("cannot read --manifests {path}")]
    Unreadable {
        /// As given.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// inotify refused.
    #[error("cannot watch --manifests {path} for changes (see sysctl fs.inotify)")]
    Watch {
        /// As given.
        path: String,
        /// Why.
        #[source]
        source: notify::Error,
    },
}

/// Follows a folder or file.
#[derive(Debug)]
pub struct ManifestSource {
    /// Absolute, with its links.
    path: PathBuf,
    /// What the path was at the start. It may be away later, and is still that.
    is_folder: bool,
    changed: Arc<Notify>,
    /// Ends the watch when dropped.
    watcher: RecommendedWatcher,
    /// The folders that inotify follows now.
    watched: Vec<PathBuf>,
    /// The last good content of each file.
    files: BTreeMap<PathBuf, Content>,
    converter: Converter,
}

/// The snapshot that one file alone gives.
///
/// # Errors
/// It is no manifest; names the line.
pub fn snapshot_of(bytes: &[u8]) -> Result<Snapshot, ParseError> {
    let Objects { services, slices, nodes } = parse::parse(bytes)?;
    Ok(Converter::default().snapshot(services, slices, &nodes))
}

impl ManifestSource {
    /// Starts to watch.
    ///
    /// # Errors
    /// The path is not there, or can't be watched.
    pub fn start(path: &Path) -> Result<Self, ManifestError> {
        let shown = path.display().to_string();
        let unreadable = |source| ManifestError::Unreadable { path: shown.clone(), source };
        let path = std::path::absolute(path).map_err(unreadable)?;
        let unreadable = |source| ManifestError::Unreadable { path: shown.clone(), source };
        let is_folder = path.metadata().map_err(unreadable)?.is_dir();
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        let followed = path.clone();
        let on_event = move |event: notify::Result<notify::Event>| {
            let matters = event.is_ok_and(|event| {
                // What happens beside the folder is of no interest.
                let elsewhere = is_folder && event.paths.iter().all(|path| !path.starts_with(&followed));
                // Reading a file must not look like a change of it.
                !event.kind.is_access() && (event.need_rescan() || !elsewhere)
            });
            if matters {
                wake.notify_one();
            }
        };
        let failed = |source| ManifestError::Watch { path: shown.clone(), source };
        let watcher = notify::recommended_watcher(on_event).map_err(failed)?;
        let (watched, files) = (Vec::new(), BTreeMap::new());
        let converter = Converter::default();
        let mut source = Self { path, is_folder, changed, watcher, watched, files, converter };
        source.watch_anew().map_err(failed)?;
        Ok(source)
    }

    /// Publishes snapshots until nobody listens any more.
    pub async fn run(mut self, out: watch::Sender<SourceReport>) {
        loop {
            // A large folder takes a while, and so does a network file system.
            let reading = spawn_blocking(move || {
                let snapshot = self.read();
                (self, snapshot)
            });
            let snapshot = match reading.await {
                Ok((source, snapshot)) => {
                    self = source;
                    snapshot
                }
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    // The agent ends.
                    Err(_) => return,
                },
            };
            let report = SourceReport { snapshot: Some(Arc::new(snapshot)), problems: Vec::new() };
            out.send_if_modified(|current| {
                let news = current.snapshot != report.snapshot;
                *current = report;
                news
            });
            tokio::select! {
                () = self.changed.notified() => self.settle().await,
                () = tokio::time::sleep(RESCAN) => {}
                () = out.closed() => return,
            }
        }
    }

    async fn settle(&self) {
        let quiet = async { while tokio::time::timeout(SETTLE, self.changed.notified()).await.is_ok() {} };
        // If it still goes on then, what is there is read, and read again later.
        let _ = tokio::time::timeout(SETTLE_LONGEST, quiet).await;
    }

    /// inotify follows what a path led to when it was asked, not the path: it
    /// is asked again before each reading, and what is lost between is read.
    fn watch_anew(&mut self) -> Result<(), notify::Error> {
        for folder in mem::take(&mut self.watched) {
            // It is gone by itself if its folder is.
            let _ = self.watcher.unwatch(&folder);
        }
        let beside = parent(&self.path).to_owned();
        // A file or link is replaced by renaming: only its folder sees that.
        let (needed, helpful) = if self.is_folder {
            (self.path.clone(), Some(beside))
        } else {
            let resolved = self.path.canonicalize().ok();
            let inside = resolved.map(|file| parent(&file).to_owned()).filter(|inside| *inside != beside);
            (beside, inside)
        };
        // Without the helpful one some changes are found by the rescan only.
        if let Some(folder) = helpful
            && self.watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
        {
            self.watched.push(folder);
        }
        self.watcher.watch(&needed, RecursiveMode::NonRecursive)?;
        self.watched.push(needed);
        Ok(())
    }

    fn read(&mut self) -> Snapshot {
        if let Err(error) = self.watch_anew() {
            // If it is away the listing says so.
            let error = ErrorChain(&error);
            tracing::debug!(path = %self.path.display(), %error, "changes are found by the rescan only");
        }
        let listed = if self.is_folder { files::list(&self.path) } else { Ok(vec![self.path.clone()]) };
        let mut problems = Vec::new();
        match &listed {
            // A file that is gone takes its objects with it; a folder that can't be read does not.
            Ok(paths) => self.files.retain(|path, _| paths.contains(path)),
            Err(error) => problems.push(problem_of(&self.path, error, !self.files.is_empty())),
        }
        for path in listed.unwrap_or_else(|_| self.files.keys().cloned().collect()) {
            let content = self.files.entry(path.clone()).or_default();
            match files::read_limited(&path) {
                Ok(bytes) if content.problem.is_none() && bytes == content.bytes && !bytes.is_empty() => {}
                Ok(bytes) => content.replace(&path, bytes),
                // Also if it is gone since it was listed: the next round sees that.
                Err(error) => content.report(problem_of(&path, &error, content.is_in_use())),
            }
        }
        let objects = || self.files.values().map(|content| &content.objects);
        let mut snapshot = self.converter.snapshot(
            objects().flat_map(|objects| objects.services.iter().cloned()).collect(),
            objects().flat_map(|objects| objects.slices.iter().cloned()).collect(),
            &objects().flat_map(|objects| objects.nodes.iter().cloned()).collect::<Vec<_>>(),
        );
        problems.extend(self.files.values().filter_map(|content| content.problem.clone()));
        snapshot.problems.extend(problems);
        snapshot.problems.extend(doubles(&self.files));
        snapshot
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
