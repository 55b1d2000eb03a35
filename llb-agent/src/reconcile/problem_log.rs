// SPDX-License-Identifier: Apache-2.0
//! Decides which log lines problems get: one when a problem begins, and one when it ends.
//! Pure; the clock is an argument. Sources log their own problems, because they have
//! problems before the first round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::line_limit::{LINES, LineLimit};
use crate::model::{Problem, Subject};

/// The problems that have begun and not ended.
#[derive(Debug, Default)]
pub(super) struct ProblemLog {
    known: BTreeMap<Problem, Instant>,
    limit: LineLimit,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Begins(Problem),
    /// With the time that it lasted.
    Ended(Problem, Duration),
    /// The last line of this window.
    Full,
}

impl Line {
    /// Writes the line.
    pub(super) fn write(&self) {
        match self {
            Self::Begins(Problem { subject, reason, message }) => {
                tracing::warn!(%subject, ?reason, "{message}");
            }
            Self::Ended(Problem { subject, reason, message }, lasted) => {
                tracing::info!(%subject, ?reason, seconds = lasted.as_secs(), "over: {message}");
            }
            Self::Full => tracing::warn!(
                lines = LINES,
                "too many problems begin and end; no more lines about them within a minute: see /state"
            ),
        }
    }
}

impl ProblemLog {
    /// The lines for what has changed. `current` are all problems at `now`.
    pub(super) fn changes<'a>(
        &mut self,
        current: impl IntoIterator<Item = &'a Problem>,
        now: Instant,
    ) -> Vec<Line> {
        let mut before = std::mem::take(&mut self.known);
        let mut lines = Vec::new();
        for problem in current.into_iter().filter(|problem| is_logged_here(problem)) {
            if self.known.contains_key(problem) {
                continue;
            }
            let began = before.remove(problem);
            if began.is_none() {
                lines.push(Line::Begins(problem.clone()));
            }
            self.known.insert(problem.clone(), began.unwrap_or(now));
        }
        let ended = before.into_iter();
        lines
            .extend(ended.map(|(problem, began)| Line::Ended(problem, now.saturating_duration_since(began))));
        self.limit.keep(lines, Line::Full, now)
    }

    /// The line for a problem that prevents a whole round, so that the others are not known now.
    pub(super) fn begins(&mut self, problem: &Problem, now: Instant) -> Vec<Line> {
        if self.known.insert(problem.clone(), now).is_some() {
            return Vec::new();
        }
        self.limit.keep(vec![Line::Begins(problem.clone())], Line::Full, now)
    }
}

fn is_logged_here(problem: &Problem) -> bool {
    !matches!(problem.subject, Subject::Source(_))
}

#[cfg(test)]
mod tests {
    use super::super::line_limit::WINDOW;
    use super::*;
    use crate::clock;
    use crate::model::{ProblemReason, ServiceName};

    fn problem(name: &str) -> Problem {
        let name = ServiceName::new("default", name);
        Problem::of_service(&name, ProblemReason::NoSubnet, "it is in no subnet")
    }

    #[test]
    fn a_problem_is_logged_when_it_begins_and_when_it_ends() {
        let (mut log, start) = (ProblemLog::default(), clock::now_std());
        let (web, minute) = (problem("web"), Duration::from_secs(60));
        assert_eq!(log.changes([&web, &web], start), [Line::Begins(web.clone())]);
        assert_eq!(log.changes([&web], start + minute), [], "it lasts");
        assert_eq!(log.changes([], start + minute), [Line::Ended(web.clone(), minute)]);
        assert_eq!(log.changes([], start + minute), []);
        assert_eq!(log.begins(&web, start), [Line::Begins(web.clone())]);
        assert_eq!(log.begins(&web, start), []);
    }

    #[test]
    fn a_source_logs_its_own_problems() {
        let subject = Subject::Source("Kubernetes API".to_owned());
        let away = Problem { subject, reason: ProblemReason::SourceUnavailable, message: "away".to_owned() };
        assert_eq!(ProblemLog::default().changes([&away], clock::now_std()), []);
    }

    #[test]
    fn the_lines_of_a_minute_are_limited() {
        let (mut log, start) = (ProblemLog::default(), clock::now_std());
        let all: Vec<Problem> = (0..1_000).map(|number| problem(&number.to_string())).collect();
        let lines = log.changes(&all, start);
        assert_eq!((lines.len(), lines.last()), (101, Some(&Line::Full)));
        assert_eq!(log.changes([], start), []);
        assert_eq!(log.changes(&all, start), []);
        assert_eq!(log.changes(&all[1..], start + WINDOW).len(), 1, "a new window");
    }
}
