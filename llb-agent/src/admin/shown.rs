// SPDX-License-Identifier: Apache-2.0
//! What all pages are made of.

use std::sync::Arc;

use axum::body::Body;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinError;

use super::body;
use crate::dataplane::{BackendStates, Counting};
use crate::observe::{self, Look, SharedHistory, SharedMeter};
use crate::reconcile::Report;

/// The most answers of unbounded size that are in memory as a whole; further requests wait.
/// /metrics and /explain are written under locks, so they cannot wait for the client while they are.
const WHOLE_ANSWERS: usize = 8;

#[derive(Clone)]
pub(super) struct Admin {
    report: watch::Receiver<Arc<Report>>,
    pub(super) registry: Arc<Registry>,
    pub(super) backends: BackendStates,
    pub(super) history: SharedHistory,
    pub(super) meter: SharedMeter,
    whole_answers: Arc<Semaphore>,
}

impl Admin {
    pub(super) fn new(
        report: watch::Receiver<Arc<Report>>,
        mut registry: Registry,
        backends: BackendStates,
        counting: Counting,
    ) -> Self {
        let (history, meter) = (observe::follow(report.clone()), observe::sample(counting.clone()));
        observe::register(&mut registry, meter.clone(), counting, report.clone());
        let whole_answers = Arc::new(Semaphore::new(WHOLE_ANSWERS));
        Self { report, registry: Arc::new(registry), backends, history, meter, whole_answers }
    }

    /// The last report. The channel's lock is free again at once, so the loop never waits for a client.
    pub(super) fn report(&self) -> Arc<Report> {
        Arc::clone(&self.report.borrow())
    }

    /// An answer that is kept in memory as a whole until the client has it, and what `write` returns with it. A thread of its own
    /// writes it, because that waits for locks, and reads maps and files.
    ///
    /// # Errors
    /// `write` has panicked.
    pub(super) async fn whole<T: Send + 'static>(
        &self,
        write: impl FnOnce() -> (T, String) + Send + 'static,
    ) -> Result<(T, Body), JoinError> {
        let place = self.place().await;
        // The thread goes on if the client has gone, and keeps its place among the limited answers until it ends.
        let written = tokio::task::spawn_blocking(move || (write(), place));
        written.await.map(|((more, text), place)| (more, body::held(text, place)))
    }

    /// A place for such an answer.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // It fails only if the semaphore is closed, and nobody closes it.
        Arc::clone(&self.whole_answers).acquire_owned().await.ok()
    }

    /// Rates are averages over `over` samples.
    pub(super) fn look<T>(&self, over: usize, work: impl FnOnce(Look<'_>) -> T) -> T {
        let (report, meter) = (self.report(), self.meter.read());
        let (states, history, meter) = (&self.backends, &self.history, &*meter);
        work(Look { report: &report, states, history, meter, over })
    }
}
