// SPDX-License-Identifier: Apache-2.0
//! Runs tests side by side, each in a process of its own: most of them wait for timers of the kernel or of the agent. Judges
//! nothing: a process that ends with success has passed.
//!
//! ```text
//!   jobs ---> workers (--jobs) ---> events ---> one thread prints them
//!     `-----> then, one at a time, those that measure the whole machine (alone.rs)
//! ```

mod alone;
mod event;
mod job;
mod programs;
mod report;

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use event::Event;
use job::Job;
pub(crate) use programs::{Program, Target, build};
use report::Report;

/// Side by side for each CPU. Tests wait for most of their time.
const JOBS_PER_CPU: usize = 2;
/// More than this many share too much of the kernel: one test is slower than it would be alone.
const MOST_JOBS: usize = 8;
/// If no test has ended for this long, those that run are named.
const LONG: Duration = Duration::from_secs(60);

/// What to run, and how.
pub(crate) struct Order<'a> {
    /// The agent to test.
    pub(crate) agent: &'a Path,
    /// Only tests whose name contains this.
    pub(crate) filter: Option<&'a str>,
    /// How many at a time; `None`: as many as suit this machine.
    pub(crate) jobs: Option<usize>,
}

/// Runs the ignored tests of these programs: those that need root. The first programs begin first.
///
/// # Errors
/// A test failed; what it printed is in our output.
pub(crate) fn run(programs: &[Program], order: &Order<'_>) -> Result<()> {
    let mut jobs = Vec::new();
    for program in programs {
        let mut names = program.tests()?;
        names.retain(|name| order.filter.is_none_or(|filter| name.contains(filter)));
        jobs.extend(Job::of(program, names, order.agent));
    }
    ensure!(
        !jobs.is_empty(),
        "no test that needs root has such a name: {}",
        order.filter.unwrap_or_default()
    );
    let (alone, beside): (Vec<Job<'_>>, Vec<Job<'_>>) =
        jobs.into_iter().partition(|job| alone::reason(&job.name()).is_some());
    let at_once = order.jobs.unwrap_or_else(jobs_of_this_machine);
    let mut report = Report::new(beside.iter().chain(&alone).map(Job::tests).sum());
    println!(
        "\nrunning {} tests, {at_once} at a time, the last {} alone",
        report.expected(),
        alone.iter().map(Job::tests).sum::<usize>(),
    );
    work(beside, at_once, &mut report);
    work(alone, 1, &mut report);
    print!("{}", report.end());
    if report.failed() > 0 {
        bail!("{} of {} tests failed", report.failed(), report.expected());
    }
    Ok(())
}

fn jobs_of_this_machine() -> usize {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus * JOBS_PER_CPU).min(MOST_JOBS)
}

/// Returns when all have ended. This thread alone prints, so no lines are mixed.
fn work(jobs: Vec<Job<'_>>, at_once: usize, report: &mut Report) {
    let queue = Mutex::new(jobs.into_iter());
    let (events, inbox) = sync_channel(at_once);
    thread::scope(|scope| {
        for _ in 0..at_once {
            let events = events.clone();
            let queue = &queue;
            // Sending can't fail: the inbox lives longer than the workers.
            scope.spawn(move || {
                while let Some(job) = next(queue) {
                    job.run(|event| drop(events.send(event)));
                }
            });
        }
        // The inbox ends when the last worker does.
        drop(events);
        print_all(&inbox, report);
    });
}

/// The lock is held only for the moment of taking one.
fn next<'a>(queue: &Mutex<std::vec::IntoIter<Job<'a>>>) -> Option<Job<'a>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

fn print_all(inbox: &Receiver<Event>, report: &mut Report) {
    loop {
        match inbox.recv_timeout(LONG) {
            Ok(event) => print!("{}", report.note(event)),
            Err(RecvTimeoutError::Timeout) => print!("{}", report.still_running()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
