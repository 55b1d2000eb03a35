// SPDX-License-Identifier: Apache-2.0
//! A child process whose output goes to a file. It is killed by its process id when dropped, and dies with this
//! process. The caller decides which program runs, and in which namespace.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_until;

/// Number of lines that a person reads after a failure.
const LOG_TAIL_LINES: usize = 60;

/// A child process, running or ended.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr appended to `log`.
    ///
    /// # Errors
    /// The log can't be opened, or the program can't be started.
    pub fn spawn(mut command: Command, name: &str, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        let program = command.get_program().to_owned();
        // A process group of its own: Ctrl-C at the terminal reaches only the parent, which then ends its
        // children in order.
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = spawn_from_lasting_thread(command)
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// The process id of the program itself: `nsenter` and `setpriv` replace themselves by it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// The last lines of the log, for error messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Sends a signal. It is an error if the process has ended already.
    ///
    /// # Errors
    /// The kernel refused, or the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(anyhow!("{} has ended already ({status}):\n{}", self.name, self.log_tail()));
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// It can't be killed or waited for.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// Its exit status; `None` while it runs.
    ///
    /// # Errors
    /// It can't be waited for.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It still runs after `limit`; the error holds the end of the log.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_until(limit, &format!("the end of {}", self.name), || Ok(self.child.try_wait()?))
            .with_context(|| format!("its log ends with:\n{}", self.log_tail()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} (pid {}):\n{}\n---", self.name, self.pid(), self.log_tail());
        }
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel sends the parent-death signal when the *thread* that forked ends, and a test may hand a process
/// to another thread. So one thread that lives as long as this process forks all of them.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, SyncSender<io::Result<Child>>);
    static SPAWNER: OnceLock<SyncSender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = sync_channel::<Order>(0);
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Sending fails only if the thread that waits for the reply is gone.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = sync_channel(1);
    let gone = |_| io::Error::other("the spawning thread is gone");
    spawner.send((command, reply)).map_err(|_| io::Error::other("the spawning thread is gone"))?;
    answer.recv().map_err(gone)?
}
