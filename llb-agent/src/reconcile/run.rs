// SPDX-License-Identifier: Apache-2.0
//! When rounds start and when they stop: the loop itself, the wait for a
//! hand-over, and the shut-down. The only part of the loop that reads the clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::conditions::ProblemsOf;
use super::executor::RoundInput;
use super::machine::FIRST_RETRY;
use super::placements::served_by_packets;
use super::progress::Stage;
use super::reconciler::Reconciler;
use super::report::Report;
use crate::addresses::AddressTable;
use crate::clock;
use crate::dataplane::DataPlane;
use crate::model::{Snapshot, SourceReport, State};
use crate::status::StatusSink;

/// Links and addresses are read again at least this often, whatever the kernel announced.
pub const RESYNC: Duration = Duration::from_secs(30);

/// How long [`Reconciler::pause`] waits for status writes. A healthy disk or
/// API server needs far less.
const WRITES_LIMIT: Duration = Duration::from_secs(2);

/// Rounds in a row that may fail while the agent ends, [`FIRST_RETRY`] apart. A
/// busy kernel answers within that time, and a service manager waits longer.
const LAST_TRIES: u32 = 10;

/// What wakes the loop up.
#[derive(Debug)]
pub struct Wakeups {
    /// Notified when the data plane changed by itself: a drain ended.
    pub plane: Arc<Notify>,
    /// Notified when links or addresses changed.
    pub links: Arc<Notify>,
}

impl<P: DataPlane, A: AddressTable, S: StatusSink> Reconciler<P, A, S> {
    /// Runs until `stop` resolves, and returns its value. May be called again
    /// afterwards. Every await of the `select!` is cancel safe: each arm only
    /// starts the next round, which reads everything anew.
    pub async fn run<T>(
        &mut self,
        source: &mut watch::Receiver<SourceReport>,
        wakeups: &Wakeups,
        report: &watch::Sender<Arc<Report>>,
        stop: impl Future<Output = T>,
    ) -> T {
        let mut stop = std::pin::pin!(stop);
        loop {
            let current = source.borrow_and_update().clone();
            let now = clock::now_std();
            let round = self.round(&current, now).await;
            report.send_modify(|shown| *shown = Arc::new(round.after(shown)));
            let wait = self.time_until_due(now);
            tokio::select! {
                // The stop signal comes first, however much is left to do.
                biased;
                stopped = &mut stop => return stopped,
                Ok(()) = source.changed() => {}
                () = wakeups.plane.notified() => {}
                () = wakeups.links.notified() => {}
                () = self.rooms.statuses.writer_changed() => {}
                () = self.health.changed() => {}
                Some(()) = self.writes.wait_for_one() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Serves every frontend that the whole snapshot in `source` asks for, or
    /// tries to, and changes neither addresses nor statuses: another agent still
    /// does that. Afterwards [`Reconciler::run`] does the rest.
    pub async fn serve_frontends(&mut self, source: &SourceReport) {
        self.stage = Stage::TakingOver;
        loop {
            self.round(source, clock::now_std()).await;
            if self.stage == Stage::FrontendsServed {
                break;
            }
            tokio::time::sleep(self.progress.wait().unwrap_or(FIRST_RETRY)).await;
        }
        self.stage = Stage::Starting;
    }

    /// Waits for the status writes that are running, so that they do not
    /// overwrite a later write of another agent. A write that takes longer than
    /// `WRITES_LIMIT` goes on: it may come after a write of the other agent, which then writes again.
    pub async fn pause(&mut self) {
        let all = async { while self.writes.wait_for_one().await.is_some() {} };
        if tokio::time::timeout(WRITES_LIMIT, all).await.is_err() {
            tracing::warn!(limit = ?WRITES_LIMIT, "status writes have not ended in time; they go on");
        }
    }

    /// Ends everything: accepts no new traffic, lets old connections finish
    /// until the plane's drain time-out, then removes the addresses. With
    /// `keep_packets`, what the packet plane serves stays, with its addresses.
    /// Statuses stay: the next start reads from them which VIP each Service has.
    /// If the links can't be read `LAST_TRIES` times in a row, it gives up, and
    /// the next start removes what is left.
    pub async fn shut_down(&mut self, wakeups: &Wakeups, keep_packets: bool) {
        let kept = match keep_packets {
            true => served_by_packets(self.rooms.plane.observe(), &self.facts),
            false => {
                self.withdraw().await;
                State::default()
            }
        };
        self.desired = Arc::new(kept);
        let mut tries = LAST_TRIES;
        loop {
            let now = clock::now_std();
            if self.wind_down(now).await {
                return;
            }
            tries = if self.progress.is_stuck() { tries - 1 } else { LAST_TRIES };
            if tries == 0 {
                tracing::error!("shut-down gives up; the next start removes the addresses that are left");
                return;
            }
            let wait = self.time_until_due(now);
            tokio::select! {
                () = wakeups.plane.notified(), if self.progress.is_complete() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One round of the shut-down. True if nothing is left.
    async fn wind_down(&mut self, now: Instant) -> bool {
        let nothing = Snapshot::default();
        self.machine.resume_addresses();
        let is_alone = self.rooms.plane.leave_packets_alone();
        match self.observe(&nothing).await {
            Ok(observed) => {
                self.follow_shares_to_the_end();
                let (published, problems) = (observed.statuses.clone(), ProblemsOf::new());
                let input =
                    RoundInput { snapshot: &nothing, published: &published, problems: &problems, now };
                let observed = self.settle(observed, input, &mut Vec::new()).await;
                let mut served = observed.frontends.keys();
                served.all(|frontend| self.desired.has(frontend)) && is_alone && self.progress.is_complete()
            }
            Err(problem) => {
                tracing::warn!(%problem, "shut-down has to wait");
                false
            }
        }
    }

    /// How long to wait until a retry is due, an address has rested, something is to be said about a dead backend,
    /// the last round is to be finished, or everything is to be read again.
    pub(super) fn time_until_due(&self, now: Instant) -> Duration {
        let due = [
            self.machine.next_retry(),
            self.resting.next_end(),
            self.dead_backends.next(),
            self.overwrites.next(),
            self.lasting.next(),
            self.conditions.next().filter(|_| self.writer.writes()),
            self.placements.next().filter(|_| self.writer.is_known()),
        ];
        let due = due.into_iter().flatten().min();
        let due = due.map(|due| due.saturating_duration_since(now));
        due.unwrap_or(RESYNC).min(self.progress.wait().unwrap_or(RESYNC))
    }
}
