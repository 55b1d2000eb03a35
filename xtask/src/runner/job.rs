// SPDX-License-Identifier: Apache-2.0
//! One process that runs one test, or several one after the other. Its output is read as a whole, so the outputs of two
//! tests are never mixed.

#![expect(clippy::disallowed_methods, reason = "how long tests take is measured by the real clock")]

use std::io::{self, BufRead, BufReader, PipeReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use super::event::{Event, Outcome, Test};
use super::programs::Program;

/// Its cases share a cluster, which takes ten seconds to start. So one process runs them all.
const IN_ONE_PROCESS: &str = "cluster";

/// What a worker does next.
pub(super) struct Job<'a> {
    program: &'a Program,
    names: Vec<String>,
    /// Whether the process says itself how each test has ended.
    is_shared: bool,
    agent: PathBuf,
}

impl<'a> Job<'a> {
    /// The jobs that together run these tests.
    pub(super) fn of(program: &'a Program, names: Vec<String>, agent: &Path) -> Vec<Self> {
        let is_shared = program.target.name == IN_ONE_PROCESS;
        let job = |names| Self { program, names, is_shared, agent: agent.to_owned() };
        match (is_shared, names.is_empty()) {
            (_, true) => Vec::new(),
            (true, false) => vec![job(names)],
            (false, false) => names.into_iter().map(|name| job(vec![name])).collect(),
        }
    }

    /// How many tests it runs.
    pub(super) fn tests(&self) -> usize {
        self.names.len()
    }

    /// The name of its test; if there are several, of the program.
    pub(super) fn name(&self) -> String {
        match &self.names[..] {
            [name] if !self.is_shared => name.clone(),
            _ => self.program.target.name.to_owned(),
        }
    }

    /// Runs the process to its end. Each test ends with one outcome, whatever happens to the process.
    pub(super) fn run(self, mut tell: impl FnMut(Event)) {
        let name = self.name();
        tell(Event::Started(name.clone()));
        let started = Instant::now();
        match self.start() {
            Err(error) => {
                self.end_all(&self.names, &format!("failed: cannot start: {error}"), started, &mut tell)
            }
            Ok((child, output)) if self.is_shared => self.follow(child, output, &mut tell),
            Ok((mut child, output)) => {
                let output = read_all(output);
                let (has_passed, output) = match child.wait() {
                    Ok(status) => (status.success(), with_status(output, status)),
                    Err(error) => (false, format!("{output}failed: cannot wait for it: {error}\n")),
                };
                let test = self.test(&self.names[0]);
                tell(Event::Ended(Outcome { test, has_passed, took: started.elapsed(), output }));
            }
        }
        tell(Event::Stopped(name));
    }

    /// Standard output and standard error go into one pipe, so that lines stay in their order.
    fn start(&self) -> io::Result<(Child, PipeReader)> {
        let (output, input) = io::pipe()?;
        let mut command: Command = self.program.command();
        command.env("LLB_AGENT", &self.agent).args(["--ignored", "--exact"]).args(&self.names);
        // Without it, libtest keeps the output to itself, and a test that aborts would take it away with it.
        command.arg("--nocapture");
        command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
        // The pipe ends when the last process does that has its other end. `command` is dropped here.
        command.spawn().map(|child| (child, output))
    }

    /// Reads how one test after the other ends, from lines like `test writers::one ... ok (3.1s)`. What was printed since
    /// the last one belongs to it.
    fn follow(&self, mut child: Child, output: PipeReader, tell: &mut impl FnMut(Event)) {
        let mut left = self.names.clone();
        let (mut text, mut since) = (String::new(), Instant::now());
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            text.push_str(&line);
            text.push('\n');
            let Some((name, has_passed)) = result(&line) else { continue };
            let Some(index) = left.iter().position(|test| test == name) else { continue };
            let (test, output) = (self.test(&left.remove(index)), std::mem::take(&mut text));
            tell(Event::Ended(Outcome { test, has_passed, took: since.elapsed(), output }));
            since = Instant::now();
        }
        let text = match child.wait() {
            Ok(status) => {
                format!("{text}failed: the program ended without a result of this test: {status}\n")
            }
            Err(error) => format!("{text}failed: cannot wait for it: {error}\n"),
        };
        self.end_all(&left, &text, since, tell);
    }

    /// These have failed, for the same reason.
    fn end_all(&self, names: &[String], output: &str, since: Instant, tell: &mut impl FnMut(Event)) {
        for name in names {
            let (test, took) = (self.test(name), since.elapsed());
            tell(Event::Ended(Outcome { test, has_passed: false, took, output: output.to_owned() }));
        }
    }

    fn test(&self, name: &str) -> Test {
        Test { tier: self.program.target.tier, name: name.to_owned() }
    }
}

/// Name and result of a test, if the line says them.
fn result(line: &str) -> Option<(&str, bool)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    match result.split(' ').next()? {
        "ok" => Some((name, true)),
        "FAILED" => Some((name, false)),
        _ => None,
    }
}

fn read_all(mut output: PipeReader) -> String {
    let mut bytes = Vec::new();
    match output.read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("{}(no more: {error})\n", String::from_utf8_lossy(&bytes)),
    }
}

/// A test that a signal has ended could not say so.
fn with_status(mut output: String, status: ExitStatus) -> String {
    if status.code().is_none() {
        output.push_str(&format!("failed: the program has ended: {status}\n"));
    }
    output
}

#[cfg(test)]
mod tests {
    use super::result;

    #[test]
    fn a_line_with_a_result_says_which_test_it_is_about() {
        assert_eq!(result("test writers::one ... ok (3.1s)"), Some(("writers::one", true)));
        assert_eq!(result("test writers::one ... FAILED (3.1s)"), Some(("writers::one", false)));
        assert_eq!(result("test result: ok. 46 passed; 0 failed"), None);
        assert_eq!(result("2026-01-01 INFO test ... ok"), None);
    }
}
