// SPDX-License-Identifier: Apache-2.0
//! `llb-agent end-agents`: what `llb.service` runs after its main process has ended. If the service
//! is being stopped, it ends all agents. If the service is being restarted, or its main process has
//! failed, agents that are left go on, and the next one takes over from them.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::cgroup;
use crate::clock;
use crate::error_chain::ErrorChain;

/// How often to look whether all have ended.
const LOOK: Duration = Duration::from_millis(100);

/// How long killed processes may take to be gone. The kernel takes away what they had open first.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Ends the agents of this service if it is being stopped. Those that have not ended after `limit`
/// are killed. Returns when they are gone: removal of the package goes on with `detach` at once.
///
/// # Errors
/// The processes of the service cannot be found.
pub(super) async fn end_agents(limit: Duration) -> anyhow::Result<()> {
    let unit = cgroup::unit()?
        .context("this process is in no systemd service; llb.service runs it, by ExecStopPost=")?;
    if !is_stopped(&unit).await {
        return Ok(());
    }
    signal(&cgroup::other_processes()?, Signal::TERM);
    let left = left_after(limit).await?;
    if left.is_empty() {
        return Ok(());
    }
    tracing::warn!(?left, ?limit, "these have not ended in time and are killed");
    signal(&left, Signal::KILL);
    let left = left_after(KILL_LIMIT).await?;
    ensure!(left.is_empty(), "these processes were killed, and are still there: {left:?}");
    Ok(())
}

/// Waits until no other process of this service is left. Returns those that are, after `limit`.
async fn left_after(limit: Duration) -> io::Result<Vec<u32>> {
    let give_up = clock::now() + limit;
    loop {
        let left = cgroup::other_processes()?;
        if left.is_empty() || clock::now() >= give_up {
            return Ok(left);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether systemd has a job to stop the unit. When systemd does not answer, it is: an agent that
/// can't be stopped would be worse than a restart with a gap.
async fn is_stopped(unit: &str) -> bool {
    match jobs(unit).await {
        Ok(jobs) => is_stop(&jobs, unit),
        Err(error) => {
            tracing::warn!(error = %ErrorChain(error.as_ref()), "cannot ask systemd whether {unit} is restarted; all agents end");
            true
        }
    }
}

async fn jobs(unit: &str) -> anyhow::Result<String> {
    let mut command = Command::new("systemctl");
    command.args(["list-jobs", "--no-legend", "--no-pager", "--plain", unit]).stdin(Stdio::null());
    let output = command.output().await.context("cannot run systemctl")?;
    ensure!(output.status.success(), "systemctl: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A line of the list is number, unit, type and state. The stop in a restart has the type `restart`.
fn is_stop(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next(), words.next()) == (Some(unit), Some("stop"))
    })
}

fn signal(processes: &[u32], signal: Signal) {
    for process in processes {
        if let Some(number) = Pid::from_raw(process.cast_signed()) {
            // It fails only if the process has ended.
            let _ = kill_process(number, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_ends_the_agents() {
        for (jobs, expected) in [
            ("", false),
            ("1234 llb.service restart running\n", false),
            ("  77 llb.service stop running\n", true),
            ("77 llb.service start waiting\n", false),
            ("77 other.service stop running\n78 llb.service restart waiting\n", false),
            ("No jobs running.\n", false),
        ] {
            assert_eq!(is_stop(jobs, "llb.service"), expected, "{jobs}");
        }
    }
}
