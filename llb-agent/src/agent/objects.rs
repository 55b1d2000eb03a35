// SPDX-License-Identifier: Apache-2.0
//! The source as a task, and the point from which an agent starts to serve its
//! objects: nobody serves them yet, or another agent does.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::locks::{Locks, Others};
use super::preconditions::check_links;
use crate::config::Config;
use crate::handover::{Inheritance, Taken};
use crate::model::{Problem, ProblemReason, SourceReport, Subject};
use crate::source::{ApiConnections, Interest, Reserved};

/// What an agent starts from.
pub(super) enum StartingPoint {
    /// Nobody serves. This agent holds the locks.
    NobodyServes(Locks),
    /// Another agent serves, and goes on until [`Inheritance::complete`].
    TakingOver(Inheritance),
}

/// The running source, and what it has delivered last.
pub(super) struct Objects {
    pub(super) received: watch::Receiver<SourceReport>,
    /// What the source looks at.
    pub(super) interest: watch::Sender<Interest>,
    task: JoinHandle<()>,
    /// Set to true when the state folder belongs to this agent.
    pub(super) in_charge: Option<watch::Sender<bool>>,
    /// The addresses of the Kubernetes API, which no Service may take.
    pub(super) api_servers: watch::Receiver<Reserved>,
    /// The open connections to the Kubernetes API.
    pub(super) connections: ApiConnections,
}

impl Objects {
    pub(super) fn follow<F>(
        interest: watch::Sender<Interest>,
        source: impl FnOnce(watch::Sender<SourceReport>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (snapshots, received) = watch::channel(SourceReport::default());
        let task = tokio::spawn(report_end(tokio::spawn(source(snapshots.clone())), snapshots));
        let api_servers = watch::channel(Reserved::new()).1;
        Self {
            received,
            interest,
            task,
            in_charge: None,
            api_servers,
            connections: ApiConnections::default(),
        }
    }

    /// Finds out what this agent starts from. If another agent serves, it waits for its links and
    /// for the first whole snapshot before it asks that agent for its sockets: from then on, that
    /// agent changes nothing.
    pub(super) async fn starting_point(
        &mut self,
        config: &Config,
        others: Others,
    ) -> anyhow::Result<StartingPoint> {
        check_links(config).await?;
        let predecessor = match others {
            Others::Nobody(locks) => return Ok(StartingPoint::NobodyServes(locks)),
            Others::Agent(predecessor) => predecessor,
        };
        tracing::info!("another llb-agent serves; this one takes over when it has a whole snapshot");
        // It fails only without a sender, and `report_end` keeps one.
        let _ = self.received.wait_for(|report| report.snapshot.is_some()).await;
        Ok(match predecessor.take().await? {
            Taken::Sockets(inheritance) => StartingPoint::TakingOver(inheritance),
            Taken::Lock(state) => StartingPoint::NobodyServes(Locks::take(config, state).await?),
        })
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Adds a problem to the reports if the source ends by itself, which is a defect.
/// What is served stays as it is: an agent that ended instead would drop healthy
/// traffic, and might do so after each start.
async fn report_end(source: JoinHandle<()>, reports: watch::Sender<SourceReport>) {
    let ended = source.await;
    if reports.is_closed() {
        return;
    }
    let why = ended.err().map(|error| format!(": {error}")).unwrap_or_default();
    let message = format!(
        "the source of objects ended{why}; what is served stays as it is and no longer follows changes: restart llb-agent"
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
        tokio::spawn(report_end(tokio::spawn(async { panic!("on purpose") }), reports));
        let report = received.wait_for(|report| !report.problems.is_empty()).await.unwrap();
        assert!(report.problems[0].message.contains("on purpose"), "{:?}", report.problems);
    }
}
