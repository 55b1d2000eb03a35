// SPDX-License-Identifier: Apache-2.0
//! Objects from a folder or file of Kubernetes YAML or JSON, for the demo, for tests, and
//! for use without a cluster. Changes are noticed by inotify.
//!
//! A file that cannot be parsed is reported with its line, and its last good content stays
//! in use. If the folder or file that `--manifests` names is away, this is reported, and
//! everything stays in use. Subfolders are not searched. Files are ignored if their names
//! begin with a dot or do not end in .yaml, .yml or .json.
//!
//! Symbolic links in the path are resolved again at each reading: Kubernetes updates a mounted
//! ConfigMap by pointing a link to another folder.

use std::collections::{BTreeMap, BTreeSet};
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
use super::interest::Interest;
use crate::error_chain::ErrorChain;
use crate::model::{Snapshot, SourceReport};

mod content;
mod files;
mod parse;
#[cfg(test)]
mod tests;

use content::{Content, doubles, problem_of};
use parse::Located;
pub use parse::ParseError;

/// Changes are read after this time without a further change, because editors and `cp`
/// write a file in several steps.
const SETTLE: Duration = Duration::from_millis(100);
/// Changes are read after this time even if something still changes.
const SETTLE_LONGEST: Duration = Duration::from_secs(1);
/// Everything is read again this often, because inotify misses changes on network file systems.
const RESCAN: Duration = Duration::from_secs(30);

/// The folder or file cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It does not exist or cannot be read.
    #[error("cannot read --manifests {path}")]
    Unreadable {
        /// As given.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// inotify failed.
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
    /// The absolute path. Symbolic links in it are not resolved.
    path: PathBuf,
    /// Whether the path was a folder at the start. Decided once, because it may be away later.
    is_folder: bool,
    changed: Arc<Notify>,
    /// Dropping it ends the watch.
    watcher: RecommendedWatcher,
    /// The folders that inotify watches now.
    watched: Vec<PathBuf>,
    /// The last good content of each file.
    files: BTreeMap<PathBuf, Content>,
    interest: watch::Receiver<Interest>,
    /// The number of the interest that `converter` has.
    number: u64,
    converter: Converter,
}

/// The snapshot of a single file.
///
/// # Errors
/// It is not a manifest; the error names the line.
pub fn snapshot_of(bytes: &[u8], foreign_annotations: bool) -> Result<Snapshot, ParseError> {
    let content = Content::new(Path::new("manifest"), Vec::new(), parse::parse(bytes)?);
    Ok(snapshot(&mut Converter::new(foreign_annotations), &[&content]))
}

/// The objects of several files as one snapshot.
fn snapshot(converter: &mut Converter, contents: &[&Content]) -> Snapshot {
    fn all<'c, K: 'c>(located: impl Iterator<Item = &'c Vec<Located<K>>>) -> Vec<Arc<K>> {
        located.flatten().map(|located| Arc::clone(&located.object)).collect()
    }
    let objects = || contents.iter().map(|content| &content.objects);
    let services = all(objects().map(|objects| &objects.services));
    let slices = all(objects().map(|objects| &objects.slices));
    let nodes = all(objects().map(|objects| &objects.nodes));
    let mut snapshot = converter.snapshot(services, slices, &nodes);
    snapshot.problems.extend(contents.iter().flat_map(|content| content.problems()).cloned());
    snapshot
}

impl ManifestSource {
    /// Starts to watch.
    ///
    /// # Errors
    /// The path does not exist or cannot be watched.
    pub fn start(path: &Path, mut interest: watch::Receiver<Interest>) -> Result<Self, ManifestError> {
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
                // The parent folder is watched too; its other files do not matter.
                let elsewhere = is_folder && event.paths.iter().all(|path| !path.starts_with(&followed));
                // Reading a file is an event too, but no change.
                !event.kind.is_access() && (event.need_rescan() || !elsewhere)
            });
            if matters {
                wake.notify_one();
            }
        };
        let failed = |source| ManifestError::Watch { path: shown.clone(), source };
        let watcher = notify::recommended_watcher(on_event).map_err(failed)?;
        let (watched, files) = (Vec::new(), BTreeMap::new());
        let Interest { number, foreign_annotations, .. } = *interest.borrow_and_update();
        let converter = Converter::new(foreign_annotations);
        let mut source =
            Self { path, is_folder, changed, watcher, watched, files, interest, number, converter };
        source.renew_watches().map_err(failed)?;
        Ok(source)
    }

    /// Publishes snapshots until there is no receiver any more.
    pub async fn run(mut self, out: watch::Sender<SourceReport>) {
        loop {
            // Reading may take long, for a large folder or on a network file system.
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
            let snapshot = Some(Arc::new(snapshot));
            let report = SourceReport { snapshot, problems: Vec::new(), interest: self.number };
            out.send_if_modified(|current| {
                let news = current.snapshot != report.snapshot || current.interest != report.interest;
                *current = report;
                news
            });
            tokio::select! {
                () = self.changed.notified() => self.settle().await,
                () = tokio::time::sleep(RESCAN) => {}
                Ok(()) = self.interest.changed() => {
                    let Interest { number, foreign_annotations, .. } = *self.interest.borrow_and_update();
                    (self.number, self.converter) = (number, Converter::new(foreign_annotations));
                }
                () = out.closed() => return,
            }
        }
    }

    async fn settle(&self) {
        let quiet = async { while tokio::time::timeout(SETTLE, self.changed.notified()).await.is_ok() {} };
        // If changes continue for longer, the files are read now and again later.
        let _ = tokio::time::timeout(SETTLE_LONGEST, quiet).await;
    }

    /// Renews the watches. inotify watches the folder that a path led to at the time
    /// of the call, even if the path leads elsewhere later. So this is called before each
    /// reading; changes in between are found by that reading.
    fn renew_watches(&mut self) -> Result<(), notify::Error> {
        for folder in mem::take(&mut self.watched) {
            // Fails if the folder is gone, and the watch with it.
            let _ = self.watcher.unwatch(&folder);
        }
        let beside = parent(&self.path).to_owned();
        // Files and links are replaced by renaming, which only a watch of their folder notices.
        let (needed, helpful) = if self.is_folder {
            (self.path.clone(), Some(beside))
        } else {
            let resolved = self.path.canonicalize().ok();
            let inside = resolved.map(|file| parent(&file).to_owned()).filter(|inside| *inside != beside);
            (beside, inside)
        };
        // Without the helpful watch some changes are noticed only by the rescan.
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
        if let Err(error) = self.renew_watches() {
            // If the folder is away, listing it fails and reports that.
            let error = ErrorChain(&error);
            tracing::debug!(path = %self.path.display(), %error, "cannot watch for changes; they are noticed by the rescan only");
        }
        let listed = if self.is_folder { files::list(&self.path) } else { Ok(vec![self.path.clone()]) };
        let mut problems = Vec::new();
        match &listed {
            // The objects of a file that is gone are gone too. If the folder cannot be read, all stay.
            Ok(paths) => {
                let paths: BTreeSet<&PathBuf> = paths.iter().collect();
                self.files.retain(|path, _| paths.contains(path));
            }
            Err(error) => problems.push(problem_of(&self.path, error, !self.files.is_empty())),
        }
        for path in listed.unwrap_or_else(|_| self.files.keys().cloned().collect()) {
            let content = self.files.entry(path.clone()).or_default();
            match files::read_limited(&path) {
                Ok(bytes) if content.problem.is_none() && bytes == content.bytes && !bytes.is_empty() => {}
                Ok(bytes) => content.replace(&path, bytes),
                // The file may have been removed since it was listed; the next reading will find that.
                Err(error) => content.report(problem_of(&path, &error, content.is_in_use())),
            }
        }
        let contents: Vec<&Content> = self.files.values().collect();
        let mut snapshot = snapshot(&mut self.converter, &contents);
        snapshot.problems.extend(problems);
        snapshot.problems.extend(doubles(&self.files));
        snapshot
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
