// SPDX-License-Identifier: Apache-2.0
//! The task that makes checks when they are due, a bounded number at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::history::History;
use super::metrics::HealthMetrics;
use super::probe::probe;
use crate::clock;
use crate::config::HealthConfig;
use crate::model::{Check, Verdict, Verdicts};

/// The most checks that are made. Backends beyond them have no verdict, so they get connections.
const MOST_CHECKS: usize = 8192;

/// Checks that are made at the same time. With the longest time-out and nothing but silent backends, each check
/// then still gets its turn, only later.
const MOST_AT_ONCE: usize = 64;

/// A failing check is repeated after this time, so that a backend that is back is soon used again.
const WHILE_FAILING: Duration = Duration::from_secs(1);

/// The task.
pub(super) struct Checker {
    config: watch::Receiver<HealthConfig>,
    wanted: watch::Receiver<Arc<BTreeSet<Check>>>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    metrics: HealthMetrics,
    known: BTreeMap<Check, History>,
    /// The checks that wait, by when they are due. A known check waits or runs.
    due: BTreeSet<(Instant, Check)>,
    running: BTreeSet<Check>,
    tasks: JoinSet<(Check, Verdict)>,
}

impl Checker {
    pub(super) fn new(
        config: watch::Receiver<HealthConfig>,
        wanted: watch::Receiver<Arc<BTreeSet<Check>>>,
        verdicts: watch::Sender<Arc<Verdicts>>,
        metrics: HealthMetrics,
    ) -> Self {
        let (known, due, running, tasks) = Default::default();
        Self { config, wanted, verdicts, metrics, known, due, running, tasks }
    }

    /// Runs until nobody can ask any more.
    pub(super) async fn run(mut self) {
        loop {
            self.start_due();
            let next = self.due.first().map(|(at, _)| *at).filter(|_| self.running.len() < MOST_AT_ONCE);
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => return,
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Ok((check, result)) = ended {
                        self.note(check, result);
                    }
                }
                () = until(next) => {}
            }
        }
    }

    /// Starts what is due, as far as the limit allows.
    fn start_due(&mut self) {
        let now = clock::now();
        while self.running.len() < MOST_AT_ONCE
            && let Some((at, check)) = self.due.pop_first()
        {
            if at > now {
                self.due.insert((at, check));
                return;
            }
            let (timeout, asked) = (self.config.borrow().timeout, check.clone());
            self.tasks.spawn(async move {
                let result = probe(&asked, timeout).await;
                (asked, result)
            });
            self.running.insert(check);
        }
    }

    /// Begins and forgets checks, as it is wanted.
    fn follow(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        let is_kept = |check: &Check| wanted.contains(check);
        self.known.retain(|check, _| is_kept(check));
        self.due.retain(|(_, check)| is_kept(check));
        let now = clock::now();
        for check in wanted.iter() {
            if self.known.len() >= MOST_CHECKS {
                break;
            }
            if !self.known.contains_key(check) {
                self.known.insert(check.clone(), History::default());
                if !self.running.contains(check) {
                    self.due.insert((now, check.clone()));
                }
            }
        }
        let known = &self.known;
        self.verdicts.send_if_modified(|verdicts| {
            let has_old = verdicts.keys().any(|check| !known.contains_key(check));
            if has_old {
                Arc::make_mut(verdicts).retain(|check, _| known.contains_key(check));
            }
            has_old
        });
        self.show();
    }

    fn note(&mut self, check: Check, result: Verdict) {
        self.running.remove(&check);
        self.metrics.result(result);
        let Some(history) = self.known.get_mut(&check) else { return };
        let has_changed = history.note(result);
        let interval = self.config.borrow().interval;
        let pause = match history.verdict() {
            Some(Verdict::Unhealthy(_)) => WHILE_FAILING.min(interval),
            Some(Verdict::Healthy) | None => interval,
        };
        self.due.insert((clock::now() + pause, check.clone()));
        if !has_changed {
            return;
        }
        match result {
            Verdict::Healthy => tracing::info!(%check, "the health check succeeds"),
            Verdict::Unhealthy(failure) => tracing::warn!(%check, %failure, "the health check fails"),
        }
        self.verdicts.send_modify(|verdicts| {
            Arc::make_mut(verdicts).insert(check, result);
        });
        self.show();
    }

    fn show(&self) {
        let left_out = self.wanted.borrow().len().saturating_sub(self.known.len());
        self.metrics.show(self.known.values().map(History::verdict), left_out);
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
