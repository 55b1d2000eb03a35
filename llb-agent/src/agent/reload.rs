// SPDX-License-Identifier: Apache-2.0
//! Reads the configuration file again: when it has changed, and at SIGHUP. Not: what a new configuration
//! changes in the running agent (`reconfigure.rs`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::config::{CommandLine, ConfigError, Configured};

/// How often the file is read. inotify would not see changes on network file systems, nor when a folder
/// above is replaced, as Kubernetes does with mounted ConfigMaps.
const INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks at SIGHUP: who sends it has mostly written the file before.
const PAUSE: Duration = Duration::from_millis(100);

/// What came of reading again.
pub(super) type Outcome = Result<Box<Configured>, ConfigError>;

/// The task that reads.
pub(super) struct Reloads {
    outcomes: watch::Receiver<Option<Arc<Outcome>>>,
    task: JoinHandle<()>,
}

impl Reloads {
    /// Starts the task. From now on SIGHUP does not end the process.
    pub(super) fn listen(configured: &Configured) -> anyhow::Result<Self> {
        let hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
        let (out, outcomes) = watch::channel(None);
        let task =
            tokio::spawn(run(configured.command_line.clone(), configured.content.clone(), hangup, out));
        Ok(Self { outcomes, task })
    }

    /// Waits for the next outcome. Cancel safe.
    pub(super) async fn next(&mut self) -> Arc<Outcome> {
        loop {
            if self.outcomes.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(outcome) = self.outcomes.borrow_and_update().clone() {
                return outcome;
            }
        }
    }
}

impl Drop for Reloads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends when there is no receiver any more.
async fn run(
    command_line: CommandLine,
    last: Option<Vec<u8>>,
    mut hangup: Signal,
    out: watch::Sender<Option<Arc<Outcome>>>,
) {
    let mut looks = Looks { last: last.ok_or_else(|| NOT_THERE.to_owned()), changing: None };
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                tracing::info!(file = %command_line.file().display(), "SIGHUP: reading the configuration again");
                looks.last = settled(&command_line).await;
                looks.changing = None;
            }
            () = tokio::time::sleep(INTERVAL) => {
                if !looks.show_a_change(look(&command_line).await) {
                    continue;
                }
            }
            () = out.closed() => return,
        }
        let command_line = command_line.clone();
        let read = spawn_blocking(move || command_line.configure().map(Box::new)).await;
        // It fails only if the agent ends.
        let Ok(outcome) = read else { return };
        out.send_replace(Some(Arc::new(outcome)));
    }
}

/// The content of the file, or why it can't be read.
type Look = Result<Vec<u8>, String>;

/// Stands for the reason if there was no file at the start.
const NOT_THERE: &str = "";

/// What the looks at the file have shown.
struct Looks {
    /// What was there when it was read for use.
    last: Look,
    /// A change that was seen once: the file may still be being written.
    changing: Option<Look>,
}

impl Looks {
    /// Whether the file has changed, and two looks have seen the same.
    fn show_a_change(&mut self, now: Look) -> bool {
        if now == self.last {
            self.changing = None;
            return false;
        }
        if self.changing.as_ref() != Some(&now) {
            self.changing = Some(now);
            return false;
        }
        self.last = now;
        self.changing = None;
        true
    }
}

/// A file that is being written all the time is used as it is after this many looks.
const LOOKS: u32 = 20;

/// Waits until two looks in a row see the same.
async fn settled(command_line: &CommandLine) -> Look {
    let mut before = look(command_line).await;
    for _ in 0..LOOKS {
        tokio::time::sleep(PAUSE).await;
        let now = look(command_line).await;
        if now == before {
            return now;
        }
        before = now;
    }
    before
}

async fn look(command_line: &CommandLine) -> Look {
    let command_line = command_line.clone();
    let content = move || match command_line.content() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NOT_THERE.to_owned()),
        content => content.map_err(|error| error.to_string()),
    };
    spawn_blocking(content).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Look {
        Ok(text.as_bytes().to_vec())
    }

    #[test]
    fn a_change_counts_when_two_looks_have_seen_the_same() {
        let mut looks = Looks { last: content("a"), changing: None };
        let is_a_directory = || Err("is a directory".to_owned());
        for (number, (now, is_change)) in [
            (content("a"), false),
            (content("half"), false),
            (content("half a"), false),
            (content("half a file"), false),
            (content("half a file"), true),
            (content("half a file"), false),
            (content("b"), false),
            (content("half a file"), false),
            (content("b"), false),
            (content("b"), true),
            (Err(NOT_THERE.to_owned()), false),
            (Err(NOT_THERE.to_owned()), true),
            (is_a_directory(), false),
            (is_a_directory(), true),
            (is_a_directory(), false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(looks.show_a_change(now), is_change, "look {number}");
        }
    }
}
