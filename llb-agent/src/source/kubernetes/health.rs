// SPDX-License-Identifier: Apache-2.0
//! The health of the watches, as problems that say what to do. A watch that works again
//! may have nothing to report, so a problem also ends after a time without errors.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kube::runtime::watcher;
use tokio::sync::Notify;

use super::timeouts::{ANSWERS_AFTER, RECOVERED_AFTER};
use crate::error_chain::ErrorChain;
use crate::kube_error::KubeError;
use crate::model::{Problem, ProblemReason, Subject};

/// Shared by the watch tasks and the publisher.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Notified when a Store or the problems may have changed.
    pub(super) changed: Notify,
    /// The problem of each watch, and when it ends if the watch reports no further error.
    errors: Mutex<BTreeMap<String, (Instant, Problem)>>,
}

impl Health {
    /// The problems that last at `now`.
    pub(super) fn problems(&self, now: Instant) -> Vec<Problem> {
        let mut errors = self.lock();
        errors.retain(|_, (until, _)| now < *until);
        errors.values().map(|(_, problem)| problem.clone()).collect()
    }

    /// The watch of `what` has received something.
    pub(super) fn works(&self, what: &str) {
        if self.lock().remove(what).is_some() {
            tracing::info!(resource = what, "watching again");
        }
        self.changed.notify_one();
    }

    /// The watch of `what` has failed. The same error is logged once while it lasts.
    pub(super) fn fails(&self, what: &str, error: watcher::Error, now: Instant) {
        let lasts = if is_timeout(&error) { ANSWERS_AFTER } else { RECOVERED_AFTER };
        let problem = problem(ProblemReason::SourceUnavailable, describe(what, error));
        let mut errors = self.lock();
        if errors.get(what).is_none_or(|(_, before)| *before != problem) {
            tracing::warn!(resource = what, "{}; what is served stays as it is", problem.message);
        }
        errors.insert(what.to_owned(), (now + lasts, problem));
        drop(errors);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Problem)>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A problem of this source.
pub(super) fn problem(reason: ProblemReason, message: String) -> Problem {
    // An answer of the API server, or of what answers in its place, may have any length.
    Problem { subject: Subject::Source("Kubernetes API".to_owned()), reason, message }.bounded()
}

/// What failed, and what to do about it.
fn describe(what: &str, error: watcher::Error) -> String {
    let (verb, error) = match error {
        watcher::Error::InitialListFailed(error) => ("list", error),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => ("watch", error),
        watcher::Error::WatchError(status) => ("watch", kube::Error::Api(status)),
        error @ watcher::Error::NoResourceVersion => return format!("cannot watch {what}: {error}"),
    };
    let code = match &error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    };
    let error = KubeError::from(error);
    let error = ErrorChain(&error);
    match code {
        Some(401) => format!(
            "cannot {verb} {what}: the API server does not accept the credentials ({error}); renew the token or certificate of the kubeconfig"
        ),
        Some(403) => format!(
            "cannot {verb} {what}: {error}; grant llb's user the verbs get, list and watch on them (llb-agent/deploy/rbac.yaml)"
        ),
        Some(_) => format!("cannot {verb} {what}: {error}"),
        // Without an answer it does not matter whether it was a list or a watch.
        None => format!("cannot read {what}: {error}"),
    }
}

fn is_timeout(error: &watcher::Error) -> bool {
    let first: &(dyn Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |&cause| cause.source());
    causes.any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    })
}

#[cfg(test)]
mod tests {
    use super::super::timeouts::{READ_TIMEOUT, SETTLE};
    use super::*;
    use crate::clock;
    use crate::source::retries::LAST_RETRY;

    fn failed(kind: io::ErrorKind) -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Service(Box::new(io::Error::from(kind))))
    }

    #[test]
    fn a_list_that_hangs_is_a_problem_until_its_next_time_out() {
        let (health, start) = (Health::default(), clock::now_std());
        health.fails("nodes", failed(io::ErrorKind::ConnectionRefused), start);
        assert_eq!(health.problems(start).len(), 1);
        assert_eq!(health.problems(start + RECOVERED_AFTER + SETTLE * 100).len(), 0);
        health.fails("nodes", failed(io::ErrorKind::TimedOut), start);
        assert_eq!(health.problems(start + READ_TIMEOUT + LAST_RETRY).len(), 1);
        health.works("nodes");
        assert_eq!(health.problems(start).len(), 0);
    }

    #[test]
    fn a_problem_names_the_cause() {
        let message = describe("nodes", failed(io::ErrorKind::ConnectionRefused));
        assert_eq!(message, "cannot read nodes: connection refused");
    }
}
