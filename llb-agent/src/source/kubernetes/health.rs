// SPDX-License-Identifier: Apache-2.0
//! The health of the watches, as problems that say what to do, and as log lines. A watch
//! that works again may have nothing to report, so a problem also ends after a time
//! without errors.
//!
//! If no Kubernetes API answers, all watches fail, again and again and each in its own way.
//! That is one problem (an outage), with one log line when it begins, one a minute while
//! it lasts, and one when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::watcher;
use tokio::sync::Notify;

use super::cause::{Cause, Server, cause_of, concerns_credentials};
use super::timeouts::{ANSWERS_AFTER, RECOVERED_AFTER};
use crate::model::{Problem, ProblemReason, Subject};

/// How often a log line says that an outage lasts.
const REMINDER: Duration = Duration::from_secs(60);

/// Shared by the watch tasks and the publisher.
#[derive(Debug)]
pub(super) struct Health {
    /// Notified when a Store or the problems may have changed.
    pub(super) changed: Notify,
    /// Notified when the API server may have refused the credentials, or llb its certificate.
    pub(super) refused: Notify,
    server: Mutex<Server>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What fails now, by watch.
    failing: BTreeMap<String, Failing>,
    /// The watches that have worked before.
    worked: BTreeSet<String>,
    outage: Option<Outage>,
    /// Log lines that are not written yet.
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Failing {
    /// It ends at this time if the watch reports no further error.
    until: Instant,
    /// `None`: it is part of the outage.
    refusal: Option<Problem>,
}

#[derive(Debug)]
struct Outage {
    began: Instant,
    reminded: Instant,
    /// Of the first error. The later ones often differ from it without meaning.
    problem: Problem,
}

/// A log line.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Bad(String),
    Good(String),
}

impl Health {
    pub(super) fn new(server: Server) -> Self {
        let (changed, refused) = (Notify::new(), Notify::new());
        Self { changed, refused, server: Mutex::new(server), state: Mutex::default() }
    }

    /// The API server is reached in another way from now on.
    pub(super) fn set_server(&self, server: Server) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// The problems that last at `now`.
    pub(super) fn problems(&self, now: Instant) -> Vec<Problem> {
        let mut state = self.lock();
        let problems = state.problems(now);
        state.write_lines();
        problems
    }

    /// The watch of `what` has received something.
    pub(super) fn works(&self, what: &str, now: Instant) {
        let mut state = self.lock();
        let was_failing = state.works(what, now);
        state.write_lines();
        drop(state);
        if was_failing {
            self.changed.notify_one();
        }
    }

    /// The watch of `what` has failed.
    pub(super) fn fails(&self, what: &str, error: watcher::Error, now: Instant) {
        let lasts = if is_timeout(&error) { ANSWERS_AFTER } else { RECOVERED_AFTER };
        if concerns_credentials(&error) {
            self.refused.notify_one();
        }
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let worked = self.lock().worked.contains(what);
        self.note(what, cause_of(what, error, &server, worked), lasts, now);
    }

    /// Something other than a watch has failed. It is over at [`Health::over`], or after the time `lasts`.
    pub(super) fn refuses(&self, what: &str, message: String, lasts: Duration, now: Instant) {
        self.note(what, Cause::Refusal(message), lasts, now);
    }

    fn note(&self, what: &str, cause: Cause, lasts: Duration, now: Instant) {
        let mut state = self.lock();
        state.fails(what, cause, lasts, now);
        state.write_lines();
        drop(state);
        self.changed.notify_one();
    }

    /// What [`Health::refuses`] noted is over.
    pub(super) fn over(&self, what: &str, now: Instant) {
        let mut state = self.lock();
        if let Some(failing) = state.failing.get_mut(what) {
            failing.until = now;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// All watches have ended, and others begin: what failed of the old ones does not matter any more.
    pub(super) fn forget_watches(&self) {
        self.lock().failing.clear();
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn problems(&mut self, now: Instant) -> Vec<Problem> {
        let (over, failing) =
            mem::take(&mut self.failing).into_iter().partition(|(_, failing)| failing.until <= now);
        self.failing = failing;
        let over: BTreeMap<String, Failing> = over;
        for problem in over.into_values().filter_map(|failing| failing.refusal) {
            self.lines.push(Line::Good(format!("over: {}", problem.message)));
        }
        self.look_at_outage(now);
        let refusals = self.failing.values().filter_map(|failing| failing.refusal.clone());
        self.outage.iter().map(|outage| outage.problem.clone()).chain(refusals).collect()
    }

    /// Whether it was failing before.
    fn works(&mut self, what: &str, now: Instant) -> bool {
        if !self.worked.contains(what) {
            self.worked.insert(what.to_owned());
        }
        let ended = self.failing.remove(what);
        if ended.as_ref().is_some_and(|failing| failing.refusal.is_some()) {
            self.lines.push(Line::Good(format!("watching {what} again")));
        }
        self.look_at_outage(now);
        ended.is_some()
    }

    fn fails(&mut self, what: &str, cause: Cause, lasts: Duration, now: Instant) {
        let refusal = match cause {
            Cause::Outage(message) => {
                if self.outage.is_none() {
                    self.lines.push(Line::Bad(format!("{message}; what is served stays as it is")));
                    let problem = problem(ProblemReason::SourceUnavailable, message);
                    self.outage = Some(Outage { began: now, reminded: now, problem });
                }
                None
            }
            Cause::Refusal(message) => Some(problem(ProblemReason::SourceUnavailable, message)),
        };
        // The same refusal is logged once while it lasts.
        let before = self.failing.get(what).and_then(|failing| failing.refusal.as_ref());
        if let Some(problem) = refusal.as_ref().filter(|problem| before != Some(problem)) {
            self.lines.push(Line::Bad(format!("{}; what is served stays as it is", problem.message)));
        }
        self.failing.insert(what.to_owned(), Failing { until: now + lasts, refusal });
        self.look_at_outage(now);
    }

    /// Ends the outage if no watch is part of it any more, or says that it lasts.
    fn look_at_outage(&mut self, now: Instant) {
        let lasts = self.failing.values().any(|failing| failing.refusal.is_none());
        let Some(outage) = &mut self.outage else { return };
        let seconds = now.saturating_duration_since(outage.began).as_secs();
        let message = &outage.problem.message;
        if !lasts {
            self.lines.push(Line::Good(format!("the Kubernetes API answers again after {seconds} s")));
            self.outage = None;
        } else if now.saturating_duration_since(outage.reminded) >= REMINDER {
            self.lines
                .push(Line::Bad(format!("{message}, for {seconds} s now; what is served stays as it is")));
            outage.reminded = now;
        }
    }

    fn write_lines(&mut self) {
        let reason = ProblemReason::SourceUnavailable;
        for line in mem::take(&mut self.lines) {
            match line {
                Line::Bad(message) => tracing::warn!(?reason, "{message}"),
                Line::Good(message) => tracing::info!(?reason, "{message}"),
            }
        }
    }
}

/// A problem of this source.
pub(super) fn problem(reason: ProblemReason, message: String) -> Problem {
    // An answer of the API server, or of what answers in its place, may have any length.
    Problem { subject: Subject::Source("Kubernetes API".to_owned()), reason, message }.bounded()
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
        let (health, start) = (Health::new(Server::default()), clock::now_std());
        health.fails("nodes", failed(io::ErrorKind::ConnectionRefused), start);
        assert_eq!(health.problems(start).len(), 1);
        assert_eq!(health.problems(start + RECOVERED_AFTER + SETTLE * 100).len(), 0);
        health.fails("nodes", failed(io::ErrorKind::TimedOut), start);
        assert_eq!(health.problems(start + READ_TIMEOUT + LAST_RETRY).len(), 1);
        health.works("nodes", start);
        assert_eq!(health.problems(start).len(), 0);
    }

    #[test]
    fn an_api_server_that_starts_is_not_taken_for_a_missing_right() {
        let (health, start) = (Health::new(Server::default()), clock::now_std());
        let forbidden = || {
            let status = kube::core::Status {
                code: 403,
                message: "no RBAC policy matched".to_owned(),
                ..Default::default()
            };
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
        };
        health.fails("services", forbidden(), start);
        assert!(health.problems(start)[0].message.contains("unless the API server has just started"));
        health.works("services", start);
        health.fails("services", forbidden(), start);
        let message = &health.problems(start)[0].message;
        assert!(message.contains("it was allowed before") && !message.contains("grant"), "{message}");
    }

    /// Three watches fail every second, each time in another way, for two and a half minutes.
    #[test]
    fn an_outage_is_one_problem_and_has_a_line_a_minute() {
        let (mut state, start) = (State::default(), clock::now_std());
        for second in 0..150 {
            let now = start + Duration::from_secs(second);
            for what in ["nodes", "services", "endpointslices"] {
                let cause = Cause::Outage(format!("no answer ({what}, {second})"));
                state.fails(what, cause, RECOVERED_AFTER, now);
            }
            assert_eq!(state.problems(now).len(), 1);
            assert_eq!(state.problems(now)[0].message, "no answer (nodes, 0)");
        }
        for what in ["nodes", "services", "endpointslices"] {
            state.works(what, start + Duration::from_secs(150));
        }
        assert_eq!(state.problems(start + Duration::from_secs(150)), []);
        let stays = "; what is served stays as it is";
        assert_eq!(
            state.lines,
            [
                Line::Bad(format!("no answer (nodes, 0){stays}")),
                Line::Bad(format!("no answer (nodes, 0), for 60 s now{stays}")),
                Line::Bad(format!("no answer (nodes, 0), for 120 s now{stays}")),
                Line::Good("the Kubernetes API answers again after 150 s".to_owned()),
            ]
        );
    }

    #[test]
    fn a_refusal_is_logged_when_it_begins_and_when_it_ends() {
        let (mut state, start) = (State::default(), clock::now_std());
        let refusal = || Cause::Refusal("cannot list nodes: forbidden".to_owned());
        for second in 0..5 {
            state.fails("nodes", refusal(), RECOVERED_AFTER, start + Duration::from_secs(second));
        }
        assert_eq!(state.problems(start + Duration::from_secs(5)).len(), 1);
        assert_eq!(state.problems(start + RECOVERED_AFTER * 2), []);
        state.fails("nodes", refusal(), RECOVERED_AFTER, start + RECOVERED_AFTER * 3);
        state.works("nodes", start + RECOVERED_AFTER * 3);
        let begins = || Line::Bad("cannot list nodes: forbidden; what is served stays as it is".to_owned());
        let ends = |text: &str| Line::Good(text.to_owned());
        assert_eq!(
            state.lines,
            [begins(), ends("over: cannot list nodes: forbidden"), begins(), ends("watching nodes again")]
        );
    }
}
