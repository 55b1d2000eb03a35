// SPDX-License-Identifier: Apache-2.0
//! Programs that are stopped for a while, so that they take no CPU time. eBPF programs and rules stay where they are.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// The process groups, each with all processes that a program has started. They go on when this is dropped.
pub(crate) struct Stopped(Vec<Pid>);

impl Stopped {
    /// Stops the groups of these processes; each process is the first one of its group.
    pub(crate) fn stop(pids: impl Iterator<Item = u32>) -> Result<Self> {
        let mut stopped = Self(Vec::new());
        for pid in pids {
            let pid = Pid::from_raw(i32::try_from(pid)?).context("a process has the id 0")?;
            kill_process_group(pid, Signal::STOP)
                .with_context(|| format!("cannot stop process {}", pid.as_raw_nonzero()))?;
            stopped.0.push(pid);
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            // If the process has ended, whoever waits for it finds that out.
            let _ = kill_process_group(*pid, Signal::CONT);
        }
    }
}
