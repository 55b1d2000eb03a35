// SPDX-License-Identifier: Apache-2.0
//! The demo passes its own checks, and leaves nothing behind however it ends.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use llb_tests::wait_until;
use rustix::process::{Pid, Signal, kill_process};

/// The demo takes 15 s; a busy machine needs more.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_demo_passes_and_leaves_nothing() {
    let mut demo = Demo::start(&[]);
    let status = demo.wait();
    assert_eq!(status.code(), Some(0), "{}", demo.output());
    assert!(demo.output().contains("All steps passed"), "{}", demo.output());
    assert_eq!(demo.remains(), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_interrupted_demo_leaves_nothing() {
    for (moment, signal) in [("A lab of four hosts", Signal::INT), ("\n3. ", Signal::TERM)] {
        let mut demo = Demo::start(&[]);
        demo.wait_for(moment);
        demo.signal(signal);
        assert_eq!(demo.wait().code(), Some(130), "{}", demo.output());
        assert_eq!(demo.remains(), Vec::<String>::new());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_kept_demo_stays_until_it_is_interrupted() {
    let mut demo = Demo::start(&["--keep"]);
    demo.wait_for("until you press Ctrl-C");
    // The first command that it suggests.
    let output = demo.output();
    let hint = output.lines().find(|line| line.contains("curl http://192.0.2.100/")).unwrap();
    let words: Vec<&str> = hint.split_whitespace().collect();
    let tried = Command::new(words[0]).args(&words[1..]).args(["-sS", "--max-time", "5"]).output().unwrap();
    assert!(tried.stdout.starts_with(b"node-"), "{hint}: {tried:?}");
    demo.signal(Signal::INT);
    assert_eq!(demo.wait().code(), Some(0), "{}", demo.output());
    assert_eq!(demo.remains(), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_failing_demo_says_what_failed() {
    let mut demo = Demo::start_with_agent(&[], Some("/bin/false"));
    assert_eq!(demo.wait().code(), Some(1), "{}", demo.output());
    assert!(demo.output().contains("FAILED: the agent did not get ready"), "{}", demo.output());
    assert_eq!(demo.remains(), Vec::<String>::new());
}

struct Demo {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with_agent(arguments, None)
    }

    fn start_with_agent(arguments: &[&str], agent: Option<&str>) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let stdout: File = output.reopen().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_llb-demo"));
        command.args(arguments).stdin(Stdio::null()).stderr(stdout.try_clone().unwrap()).stdout(stdout);
        if let Some(agent) = agent {
            command.env("LLB_AGENT", agent);
        }
        Self { child: command.spawn().unwrap(), output }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap()
    }

    fn wait_for(&mut self, text: &str) {
        wait_until(LIMIT, text, || {
            let ended = self.child.try_wait()?;
            Ok((ended.is_some() || self.output().contains(text)).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.output()));
        assert!(self.output().contains(text), "ended without {text:?}:\n{}", self.output());
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        wait_until(LIMIT, "the end of the demo", || Ok(self.child.try_wait()?))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.output()))
    }

    /// What is left of its lab: everything whose name contains its process id.
    fn remains(&self) -> Vec<String> {
        let own = format!("llb-{}-", self.child.id());
        let places = [Path::new("/run/netns"), Path::new("/sys/fs/bpf"), &std::env::temp_dir()];
        places
            .iter()
            .filter_map(|place| std::fs::read_dir(place).ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&own))
            .map(|path| path.display().to_string())
            .collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
