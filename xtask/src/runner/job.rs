// SPDX-License-Identifier: Apache-2.0
//! One process that runs one test, or several one after the other. The output of each test is kept apart from those of
//! others.

#![expect(clippy::disallowed_methods, reason = "how long tests take is measured by the real clock")]

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::event::{Event, Outcome, Test};
use super::programs::Program;
use crate::shell;

/// Its cases share a cluster, which takes ten seconds to start. So one process runs them all.
const IN_ONE_PROCESS: &str = "cluster";

/// Here is the output of each test of the last run, also of those that passed.
const OUTPUTS: &str = "target/test-output";

/// As if it were a test: the end of a program that fails although all its tests have passed.
const THE_END: &str = "the_end_of_all";

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
        let (name, started) = (self.name(), Instant::now());
        tell(Event::Started(name.clone()));
        let result = if self.is_shared { self.run_several(&mut tell) } else { self.run_one(&mut tell) };
        if let Err(error) = result {
            self.end_all(&self.names, &format!("failed: cannot run it: {error}\n"), started, &mut tell);
        }
        tell(Event::Stopped(name));
    }

    /// The output goes into a file, not into a pipe: a pipe would last as long as any process that the test has left behind.
    fn run_one(&self, tell: &mut impl FnMut(Event)) -> io::Result<()> {
        let (name, started) = (&self.names[0], Instant::now());
        let path = self.log(name)?;
        let log = File::create(&path)?;
        let status = self.command().stdout(log.try_clone()?).stderr(log).status()?;
        let mut output = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        if status.code().is_none() {
            // A test that a signal has ended could not say so.
            output.push_str(&format!("failed: the program has ended: {status}\n"));
        }
        let (test, has_passed) = (self.test(name), status.success());
        tell(Event::Ended(Outcome { test, has_passed, took: started.elapsed(), output }));
        Ok(())
    }

    /// Standard output and standard error go into one pipe, so that lines stay in their order.
    fn run_several(&self, tell: &mut impl FnMut(Event)) -> io::Result<()> {
        let (output, input) = io::pipe()?;
        // Our copies of the pipe's other end are closed with this command.
        let child = self.command().stdout(input.try_clone()?).stderr(input).spawn()?;
        self.follow(child, output, tell);
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = self.program.command();
        command.env("LLB_AGENT", &self.agent).args(["--ignored", "--exact"]).args(&self.names);
        // Otherwise libtest keeps the output to itself, and a test that aborts takes it away with it.
        command.arg("--nocapture").stdin(Stdio::null());
        command
    }

    /// The file for the output of a test. Its folder exists.
    fn log(&self, name: &str) -> io::Result<PathBuf> {
        let folder = shell::workspace().join(OUTPUTS).join(self.program.target.name);
        fs::create_dir_all(&folder)?;
        Ok(folder.join(format!("{name}.log")))
    }

    /// Reads how one test after the other ends, from lines like `test writers::one ... ok (3.1s)`. What was printed since
    /// the last one belongs to it.
    fn follow(&self, mut child: Child, output: PipeReader, tell: &mut impl FnMut(Event)) {
        let mut left = self.names.clone();
        let (mut text, mut since, mut has_failed) = (String::new(), Instant::now(), false);
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            text.push_str(&line);
            text.push('\n');
            let Some((name, has_passed)) = result(&line) else { continue };
            let Some(index) = left.iter().position(|test| test == name) else { continue };
            has_failed |= !has_passed;
            let (test, output) = (self.test(&left.remove(index)), std::mem::take(&mut text));
            // Only for later: the report has it too if the test failed.
            let _ = self.log(&test.name).and_then(|log| fs::write(log, &output));
            tell(Event::Ended(Outcome { test, has_passed, took: since.elapsed(), output }));
            since = Instant::now();
        }
        let end = match child.wait() {
            Ok(status) => {
                if left.is_empty() && !has_failed && !status.success() {
                    left.push(THE_END.to_owned());
                }
                format!("the program has ended: {status}")
            }
            Err(error) => format!("cannot wait for the program: {error}"),
        };
        self.end_all(&left, &format!("{text}failed: {end}\n"), since, tell);
    }

    /// These have failed, for the same reason. Only the first one shows it.
    fn end_all(&self, names: &[String], output: &str, since: Instant, tell: &mut impl FnMut(Event)) {
        for (index, name) in names.iter().enumerate() {
            let (test, took) = (self.test(name), since.elapsed());
            let output = if index == 0 { output.to_owned() } else { format!("failed: as {}\n", names[0]) };
            tell(Event::Ended(Outcome { test, has_passed: false, took, output }));
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
