// SPDX-License-Identifier: Apache-2.0
//! The publisher: waits for changes of the Stores and publishes whole snapshots.

use std::mem;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::connect::Cluster;
use super::fallback::Fallback;
use super::health::{self, Health};
use super::pools::KnownPools;
use super::reload::Reloader;
use super::resolve::{self, Reserved};
use super::store::Change;
use super::timeouts::{PATIENCE, RECOVERED_AFTER, SETTLE};
use super::watching::Watching;
use crate::clock;
use crate::model::{Problem, ProblemReason, Snapshot, SourceReport};
use crate::source::interest::Interest;
use crate::source::kept::serves_the_same;
use crate::source::saved::SavedSnapshots;

/// Follows the objects of a cluster.
pub struct KubernetesSource {
    cluster: Cluster,
    health: Arc<Health>,
    interest: watch::Receiver<Interest>,
    watching: Watching,
    /// By a new interest. It takes the place of `watching` when all its lists have arrived.
    next: Option<Watching>,
    saved: SavedSnapshots,
    api_servers: watch::Receiver<Reserved>,
    tasks: JoinSet<()>,
}

impl KubernetesSource {
    /// Starts the watches.
    pub fn start(cluster: &Cluster, mut interest: watch::Receiver<Interest>, saved: SavedSnapshots) -> Self {
        let health = Arc::new(Health::new(cluster.server()));
        let first = interest.borrow_and_update().clone();
        let pools = first.pools.clone().map(KnownPools::new);
        let watching = Watching::start(cluster, first, pools, &health);
        let (resolved, api_servers) = watch::channel(Reserved::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(resolve::follow(cluster.clone(), resolved));
        tasks.spawn(Reloader::new(cluster.clone(), health.clone()).run());
        let (cluster, next) = (cluster.clone(), None);
        Self { cluster, health, interest, watching, next, saved, api_servers, tasks }
    }

    /// The addresses of the API server, which no Service may have. A first result, maybe empty, is a change.
    pub fn api_servers(&self) -> watch::Receiver<Reserved> {
        self.api_servers.clone()
    }

    /// Publishes snapshots until there is no receiver any more.
    pub async fn run(mut self, out: watch::Sender<SourceReport>) {
        let (latest, kept) = watch::channel(None);
        self.tasks.spawn(self.saved.clone().keep(kept));
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        let mut live = Live::default();
        let (mut fallback, mut defects) = (None, Vec::new());
        // Time has passed in which only others changed something.
        let mut late = false;
        loop {
            self.change_over(&mut live);
            let news = live.update(&self.watching, late);
            if let Some(snapshot) = live.snapshot.as_ref().filter(|_| news) {
                self.save(snapshot, &latest);
            }
            let mut report = self.report(&live, fallback.as_ref());
            report.problems.extend_from_slice(&defects);
            out.send_if_modified(|current| {
                let is_new = current.snapshot.is_none() != report.snapshot.is_none()
                    || current.problems != report.problems
                    || current.interest != report.interest;
                // What only others changed is there when the next round looks, and wakes nobody.
                *current = report;
                news || is_new
            });
            late = false;
            tokio::select! {
                () = self.health.changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(RECOVERED_AFTER) => late = true,
                () = &mut patience, if live.snapshot.is_none() && fallback.is_none() => {
                    fallback = Some(self.fall_back().await);
                }
                Some(ended) = self.tasks.join_next() => defects.push(defect(ended)),
                Some(ended) = self.watching.tasks.join_next() => defects.push(defect(ended)),
                Some(ended) = ended(self.next.as_mut()) => defects.push(defect(ended)),
                Ok(()) = self.interest.changed() => self.watch_anew(),
                () = out.closed() => return,
            }
        }
    }

    /// The saved snapshot. Its pools count while the ConfigMap has none without mistakes.
    async fn fall_back(&self) -> Fallback {
        let pools = self.watching.objects.pools.as_deref();
        let fallback = Fallback::load(self.saved.clone()).await.for_pools(pools);
        let saved = fallback.snapshot.as_ref().and_then(|snapshot| snapshot.pools.as_ref());
        if let Some((pools, saved)) = pools.zip(saved) {
            pools.seed(saved);
        }
        fallback
    }

    /// The interest has changed. The old watches go on until the new ones have all lists: that may last, if the
    /// API is away or a right is missing.
    fn watch_anew(&mut self) {
        let interest = self.interest.borrow_and_update().clone();
        let pools = self.watching.objects.pools.as_ref().map(|pools| pools.again());
        self.next = Some(Watching::start(&self.cluster, interest, pools, &self.health));
    }

    /// Goes over to the new watches if they have all lists, or if the old ones never had.
    fn change_over(&mut self, live: &mut Live) {
        let is_due = |next: &mut Watching| live.snapshot.is_none() || next.objects.is_complete();
        if let Some(next) = self.next.take_if(is_due) {
            self.watching = next;
            self.health.forget_watches();
            // The same objects make another snapshot.
            live.pending = Change::Ours;
        }
    }

    fn report(&self, live: &Live, fallback: Option<&Fallback>) -> SourceReport {
        let mut problems = self.health.problems(clock::now_std());
        problems.extend(self.watching.objects.pools.as_ref().and_then(|pools| pools.problem()));
        if live.snapshot.is_some() {
            return SourceReport { snapshot: live.snapshot.clone(), problems, interest: live.interest };
        }
        problems.extend(fallback.and_then(|fallback| fallback.problem.clone()));
        let snapshot = fallback.and_then(|fallback| fallback.snapshot.clone());
        // A saved snapshot may be of any interest.
        SourceReport { snapshot, problems, interest: self.watching.interest.number }
    }

    /// Saves the snapshot if an agent that started from the saved one would serve something else.
    fn save(&self, snapshot: &Arc<Snapshot>, latest: &watch::Sender<Option<Arc<Snapshot>>>) {
        latest.send_if_modified(|saved| {
            let is_same = saved
                .as_deref()
                .is_some_and(|saved| serves_the_same(saved, snapshot, &*self.watching.interest.is_ours));
            if !is_same {
                *saved = Some(snapshot.clone());
            }
            !is_same
        });
    }
}

/// The snapshot of the live objects.
#[derive(Default)]
struct Live {
    /// `None` until all first lists have arrived.
    snapshot: Option<Arc<Snapshot>>,
    /// What has changed since then.
    pending: Change,
    /// The interest by which it was made.
    interest: u64,
}

impl Live {
    /// Makes a new snapshot if something of ours changed; if only others changed something, only when it is
    /// `late`. True if a round has to see it.
    fn update(&mut self, Watching { objects, interest, .. }: &Watching, late: bool) -> bool {
        self.pending = self.pending.max(objects.take_change());
        let is_due = match self.pending {
            Change::Ours => true,
            Change::Others => late,
            Change::Nothing => false,
        };
        if !is_due || !objects.is_complete() {
            return false;
        }
        let is_ours = mem::take(&mut self.pending) == Change::Ours;
        let snapshot = Arc::new(objects.snapshot());
        let differs = self.snapshot.as_ref() != Some(&snapshot);
        self.snapshot = Some(snapshot);
        self.interest = interest.number;
        is_ours && differs
    }
}

/// Waits until a task of the new watches has ended; `None` if there is none.
async fn ended(next: Option<&mut Watching>) -> Option<Result<(), JoinError>> {
    next?.tasks.join_next().await
}

/// A task of the source has ended, which is a defect. The other tasks continue: endpoints
/// can be followed even if Nodes are not.
fn defect(ended: Result<(), JoinError>) -> Problem {
    let why = ended.err().map(|error| format!(": {error}")).unwrap_or_default();
    let message =
        format!("a watch ended unexpectedly{why}; some changes are no longer noticed; restart llb-agent");
    tracing::error!("{message}");
    health::problem(ProblemReason::SourceUnavailable, message)
}
