// SPDX-License-Identifier: Apache-2.0
//! What the agent tells a service manager such as systemd (sd_notify(3)): that it serves, that its
//! loop goes round, and one line on how it is. Without a service manager nothing is told.
//!
//! ```text
//!   after each round of the loop --report--> WATCHDOG=1
//!   the first report that is ready       --> READY=1
//!   a report that reads otherwise        --> STATUS=serving 12 frontends
//! ```
//!
//! Nothing here has a timer: a loop that hangs feeds no watchdog.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::has_service_manager;
use crate::error_chain::ErrorChain;
use crate::reconcile::Report;

/// Whether the agent was started by one.
pub(super) fn is_there() -> bool {
    has_service_manager()
}

/// The longest status. It may have names of all links, and the supervisor passes on only short messages.
const LONGEST_STATUS: usize = 1024;

/// One line for `systemctl status`.
pub(super) fn say(status: &str) {
    tell(&[NotifyState::Status(&status[..status.floor_char_boundary(LONGEST_STATUS)])]);
}

/// A message of another process, as it is.
pub(super) fn pass_on(message: &str) {
    tell(&[NotifyState::Custom(message.trim_end())]);
}

/// Tells what the loop reports, until the tasks are dropped: a successor then does it.
pub(super) fn follow(mut reports: watch::Receiver<Arc<Report>>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if is_there() {
        tasks.spawn(async move {
            let mut told = Told::default();
            while reports.changed().await.is_ok() {
                let report = Arc::clone(&reports.borrow_and_update());
                told.next(&report).send();
            }
        });
    }
    tasks
}

/// What was told last.
#[derive(Debug, Default)]
struct Told {
    is_ready: bool,
    status: String,
}

/// What is to be told after a round.
#[derive(Debug, PartialEq, Eq)]
struct News<'a> {
    is_ready: bool,
    status: Option<&'a str>,
}

impl Told {
    fn next(&mut self, report: &Report) -> News<'_> {
        let is_ready = report.ready && !self.is_ready;
        self.is_ready |= report.ready;
        let status = status_of(report);
        let is_new = status != self.status;
        self.status = status;
        News { is_ready, status: is_new.then_some(&self.status) }
    }
}

impl News<'_> {
    fn send(&self) {
        let mut states = vec![NotifyState::Watchdog];
        states.extend(self.status.map(NotifyState::Status));
        if self.is_ready {
            states.push(NotifyState::Ready);
        }
        tell(&states);
    }
}

fn status_of(report: &Report) -> String {
    if !report.has_snapshot {
        return "waiting for the first whole snapshot of Services".to_owned();
    }
    let frontends = report.observed.frontends.len();
    let mut text = match frontends {
        1 => "serving 1 frontend".to_owned(),
        count => format!("serving {count} frontends"),
    };
    let problems = report.problems.len();
    if problems > 0 {
        let noun = if problems == 1 { "problem" } else { "problems" };
        // Writing to a String can't fail.
        let _ = write!(text, "; {problems} {noun}, see /readyz of the admin endpoint");
    }
    text
}

/// A service manager that can't be reached is no reason to serve less. Without its supervisor an agent
/// has nobody to tell, until the next agent takes over.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states)
        && !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    {
        tracing::warn!(error = %ErrorChain(&error), "cannot tell the service manager how llb is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Problem, ProblemReason, Subject};

    #[test]
    fn ready_is_told_once_and_a_status_when_it_changes() {
        let mut told = Told::default();
        let waiting = Report::default();
        let expected = "waiting for the first whole snapshot of Services";
        assert_eq!(told.next(&waiting), News { is_ready: false, status: Some(expected) });
        assert_eq!(told.next(&waiting), News { is_ready: false, status: None });
        let mut report = Report { has_snapshot: true, ..Report::default() };
        assert_eq!(told.next(&report), News { is_ready: false, status: Some("serving 0 frontends") });
        report.ready = true;
        assert_eq!(told.next(&report), News { is_ready: true, status: None });
        report.problems = vec![Problem {
            subject: Subject::Object("Node a".to_owned()),
            reason: ProblemReason::InvalidValue,
            message: String::new(),
        }];
        let expected = "serving 0 frontends; 1 problem, see /readyz of the admin endpoint";
        assert_eq!(told.next(&report), News { is_ready: false, status: Some(expected) });
    }
}
