// SPDX-License-Identifier: Apache-2.0
//! The text that a run prints: a line for each test, the whole output of those that fail, and at the end the slowest, and
//! once more why tests failed. Runs nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::event::{Event, Outcome, Test};

/// How many of the slowest tests are listed.
const SLOWEST: usize = 20;
/// How many lines of a reason are repeated at the end, of the message and of its causes.
const REASON_LINES: usize = 4;
/// How much of a line is repeated. Messages may contain whole logs.
const REASON_CHARS: usize = 400;
/// The last part begins with it. `.ci/run` looks for this line.
const WHY: &str = "--- why tests failed:";

/// What has happened so far.
pub(super) struct Report {
    expected: usize,
    running: BTreeSet<String>,
    times: Vec<(Duration, Test)>,
    failures: Vec<(Test, Vec<String>)>,
}

impl Report {
    /// Of a run of so many tests.
    pub(super) fn new(expected: usize) -> Self {
        Self { expected, running: BTreeSet::new(), times: Vec::new(), failures: Vec::new() }
    }

    pub(super) fn expected(&self) -> usize {
        self.expected
    }

    pub(super) fn failed(&self) -> usize {
        self.failures.len()
    }

    /// Takes the event, and returns what to print.
    pub(super) fn note(&mut self, event: Event) -> String {
        match event {
            Event::Started(name) => drop(self.running.insert(name)),
            Event::Stopped(name) => drop(self.running.remove(&name)),
            Event::Ended(outcome) => return self.end_of(outcome),
        }
        String::new()
    }

    /// For a time in which no test ended.
    pub(super) fn still_running(&self) -> String {
        let names = self.running.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("(still running: {names})\n")
    }

    /// The last lines of the run.
    pub(super) fn end(&mut self) -> String {
        self.times.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        let mut text = format!("\nthe slowest of {} tests:\n", self.times.len());
        for (took, Test { tier, name }) in self.times.iter().take(SLOWEST) {
            text.push_str(&format!("{} {tier} {name}\n", seconds(*took)));
        }
        if self.failures.is_empty() {
            text.push_str("\nall passed\n");
            return text;
        }
        text.push_str(&format!("\n{WHY}\n"));
        for (Test { tier, name }, reason) in &self.failures {
            text.push_str(&format!("{tier} {name}\n"));
            reason.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
            text.push_str(&format!("    to run it again: cargo xtask test --only {tier} {name}\n"));
        }
        text
    }

    fn end_of(&mut self, outcome: Outcome) -> String {
        let Outcome { test, has_passed, took, output } = outcome;
        let Test { tier, name } = &test;
        let result = if has_passed { "ok    " } else { "FAILED" };
        let number = self.times.len() + 1;
        let mut text = format!("[{number:>3}/{}] {result} {} {tier} {name}\n", self.expected, seconds(took));
        self.times.push((took, test.clone()));
        if !has_passed {
            text.push_str(&format!(
                "--- output of {tier} {name}:\n{output}--- end of the output of {tier} {name}\n"
            ));
            self.failures.push((test, reason(&output)));
        }
        text
    }
}

fn seconds(took: Duration) -> String {
    format!("{:>6.1} s", took.as_secs_f64())
}

/// The first lines that say why a test failed: what follows a panic or `failed: `, and the causes that anyhow lists
/// after it. If there are none, the last lines.
fn reason(output: &str) -> Vec<String> {
    let lines: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
    let starts = |line: &&str| line.contains("panicked at") || line.starts_with("failed: ");
    let from = lines.iter().position(starts).unwrap_or(lines.len().saturating_sub(REASON_LINES));
    let is_trace = |line: &&&str| line.eq_ignore_ascii_case("stack backtrace:");
    let whole: Vec<&str> = lines[from..].iter().take_while(|line| !is_trace(line)).copied().collect();
    let causes = whole.iter().position(|line| *line == "Caused by:").unwrap_or(whole.len());
    let (message, causes) = whole.split_at(causes);
    let both = message.iter().take(REASON_LINES).chain(causes.iter().take(REASON_LINES));
    both.map(|line| line.chars().take(REASON_CHARS).collect()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::event::{Event, Outcome, Test};
    use super::{Report, reason};

    fn ended(name: &str, has_passed: bool, secs: u64, output: &str) -> Event {
        let (test, output) = (Test { tier: "lab", name: name.to_owned() }, output.to_owned());
        Event::Ended(Outcome { test, has_passed, took: Duration::from_secs(secs), output })
    }

    #[test]
    fn a_failed_test_is_shown_with_its_whole_output_and_again_at_the_end() {
        let mut report = Report::new(2);
        assert_eq!(
            report.note(ended("tc::one", true, 3, "noise\n")),
            "[  1/2] ok        3.0 s lab tc::one\n"
        );
        let output = "log\nthread 'tc::two' panicked at a.rs:1:2:\nno answer\n";
        assert_eq!(
            report.note(ended("tc::two", false, 40, output)),
            format!(
                "[  2/2] FAILED   40.0 s lab tc::two\n--- output of lab tc::two:\n{output}\
                 --- end of the output of lab tc::two\n"
            )
        );
        assert_eq!(report.failed(), 1);
        assert_eq!(
            report.end(),
            "\nthe slowest of 2 tests:\n  40.0 s lab tc::two\n   3.0 s lab tc::one\n\n--- why tests failed:\n\
             lab tc::two\n    thread 'tc::two' panicked at a.rs:1:2:\n    no answer\n    to run it again: \
             cargo xtask test --only lab tc::two\n"
        );
    }

    #[test]
    fn what_runs_is_named_until_its_process_ends() {
        let mut report = Report::new(2);
        report.note(Event::Started("cluster".to_owned()));
        report.note(Event::Started("tc::one".to_owned()));
        assert_eq!(report.still_running(), "(still running: cluster, tc::one)\n");
        report.note(Event::Stopped("cluster".to_owned()));
        assert_eq!(report.still_running(), "(still running: tc::one)\n");
    }

    #[test]
    fn the_reason_is_what_follows_the_panic_without_back_traces() {
        let output = "a log\nthread 'x' panicked at a.rs:1:2:\ncalled `unwrap()`\n\nCaused by:\n    0: outer\n    \
                      1: refused\n\nStack backtrace:\n   0: main\n             at /a.rs:1:2\nmore\n";
        let expected = [
            "thread 'x' panicked at a.rs:1:2:",
            "called `unwrap()`",
            "Caused by:",
            "    0: outer",
            "    1: refused",
        ];
        assert_eq!(reason(output), expected);
        let long = format!(
            "thread 'x' panicked at a.rs:1:2:\nits log:\n{}\nCaused by:\n    refused\n",
            "log\n".repeat(50)
        );
        assert_eq!(reason(&long).last().unwrap(), "    refused");
        assert_eq!(reason("a\nfailed: no cluster\n"), ["failed: no cluster"]);
        assert_eq!(reason("only\nnoise\n"), ["only", "noise"]);
    }
}
