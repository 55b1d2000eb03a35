// SPDX-License-Identifier: Apache-2.0
//! The source as a task, and the place from which an agent starts to serve its
//! objects: a free one, or that of another agent.

use std::os::fd::OwnedFd;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::handover::{Inheritance, Start, Taken};
use crate::model::{Problem, ProblemReason, SourceReport, Subject};

/// What this agent starts from.
pub(super) enum Place {
    /// Nobody serves: the lock of the state folder.
    Free(OwnedFd),
    /// Another agent serves, and waits for [`Inheritance::complete`].
    Inherited(Inheritance),
}

/// The source, running.
pub(super) struct Objects {
    pub(super) received: watch::Receiver<SourceReport>,
    task: JoinHandle<()>,
    /// Told when the state folder is this agent's.
    pub(super) in_charge: Option<watch::Sender<bool>>,
}

impl Objects {
    pub(super) fn follow<F>(source: impl FnOnce(watch::Sender<SourceReport>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (snapshots, received) = watch::channel(SourceReport::default());
        let task = tokio::spawn(tell_end(tokio::spawn(source(snapshots.clone())), snapshots));
        Self { received, task, in_charge: None }
    }

    /// What this agent starts from. Another agent that serves is asked only
    /// when there is a whole snapshot to serve by.
    pub(super) async fn wait_for_place(&mut self, start: Start) -> anyhow::Result<Place> {
        let predecessor = match start {
            Start::Alone(lock) => return Ok(Place::Free(lock)),
            Start::After(predecessor) => predecessor,
        };
        tracing::info!("another llb-agent serves; taking over when there is a whole snapshot");
        // The sender lives as long as the source, whose end is told by it.
        let _ = self.received.wait_for(|report| report.snapshot.is_some()).await;
        Ok(match predecessor.take().await? {
            Taken::Sockets(inheritance) => Place::Inherited(inheritance),
            Taken::Lock(lock) => Place::Free(lock),
        })
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A source that ends by itself is a defect. What is served stays as it is,
/// and the problem says so: an agent that ended instead would drop traffic that
/// is fine, and might do so after each start.
async fn tell_end(source: JoinHandle<()>, reports: watch::Sender<SourceReport>) {
    let ended = source.await;
    if reports.is_closed() {
        return;
    }
    let why = ended.err().map(|error| format!(": {error}")).unwrap_or_default();
    let message = format!(
        "the source of objects ended{why}; what is served stays as it is, and follows no change any more: restart llb-agent"
    );
    tracing::error!("{message}");
    let subject = Subject::Source("llb-agent".to_owned());
    let problem = Problem { subject, reason: ProblemReason::SourceUnavailable, message };
    reports.send_modify(|report| report.problems.push(problem));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_ends_is_a_problem() {
        let (reports, mut received) = watch::channel(SourceReport::default());
        tokio::spawn(tell_end(tokio::spawn(async { panic!("on purpose") }), reports));
        let report = received.wait_for(|report| !report.problems.is_empty()).await.unwrap();
        assert!(report.problems[0].message.contains("on purpose"), "{:?}", report.problems);
    }
}
