// SPDX-License-Identifier: Apache-2.0
//! Reads the configuration file again: when it has changed, and at SIGHUP. Not: what a new configuration
//! changes in the running agent (`reconfigure.rs`).

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
    mut last: Option<Vec<u8>>,
    mut hangup: Signal,
    out: watch::Sender<Option<Arc<Outcome>>>,
) {
    // A change that was seen once: the file may still be being written.
    let mut changing = None;
    loop {
        let is_asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(INTERVAL) => false,
            () = out.closed() => return,
        };
        let now = content(&command_line).await;
        if is_asked {
            tracing::info!(file = %command_line.file().display(), "SIGHUP: reading the configuration again");
        } else if now == last {
            changing = None;
            continue;
        } else if changing.as_ref() != Some(&now) {
            changing = Some(now);
            continue;
        }
        (last, changing) = (now, None);
        let command_line = command_line.clone();
        let read = spawn_blocking(move || command_line.configure().map(Box::new)).await;
        // It fails only if the agent ends.
        let Ok(outcome) = read else { return };
        out.send_replace(Some(Arc::new(outcome)));
    }
}

/// The content of the file; `None` if it can't be read. Why it can't is said when it is read for use.
async fn content(command_line: &CommandLine) -> Option<Vec<u8>> {
    let command_line = command_line.clone();
    spawn_blocking(move || command_line.content().ok()).await.ok().flatten()
}
