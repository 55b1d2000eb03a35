// SPDX-License-Identifier: Apache-2.0
//! How long the cores of the whole machine were busy, whoever used them: client, balancer, server and kernel. A
//! balancer's work in the kernel belongs to no process, so nothing smaller would show what it costs.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The unit of time in /proc/stat (proc_stat(5); `sysconf(_SC_CLK_TCK)` is 100 on every machine with Linux).
const TICK: Duration = Duration::from_millis(10);

/// Columns of a line of /proc/stat in which a core did nothing for this machine: idle, iowait, steal.
const UNUSED: [usize; 3] = [3, 4, 7];

/// A moment from which on the cores are watched.
pub(crate) struct Watch {
    started: Instant,
    unused: Duration,
}

impl Watch {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { started: Instant::now(), unused: unused()? })
    }

    /// Microseconds that all cores together were busy since the start.
    ///
    /// It is the rest of the time: the kernel measures how long a core is idle, but only samples what it does else.
    pub(crate) fn busy_us(&self) -> Result<f64> {
        let unused = unused()?.saturating_sub(self.unused);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok((self.started.elapsed().as_secs_f64() * cores as f64 - unused.as_secs_f64()).max(0.0) * 1e6)
    }
}

/// The part of the cores that is busy from now on for a while, in percent.
pub(crate) fn busy_percent(span: Duration) -> Result<f64> {
    let watch = Watch::start()?;
    std::thread::sleep(span);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(watch.busy_us()? / (span.as_secs_f64() * cores as f64 * 1e4))
}

/// How long the cores were not used since the start of the machine.
fn unused() -> Result<Duration> {
    parse(&fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?)
}

fn parse(stat: &str) -> Result<Duration> {
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .context("/proc/stat has no line of all cores")?;
    let columns: Vec<u32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let ticks: u32 = UNUSED.iter().filter_map(|column| columns.get(*column)).sum();
    Ok(TICK * ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_is_not_used() {
        let stat = "cpu  100 2 30 4000 50 6 7 8 0 0\ncpu0 50 1 15 2000 25 3 3 4 0 0\n";
        assert_eq!(parse(stat).unwrap(), TICK * 4058);
        assert!(parse("intr 5\n").is_err());
    }
}
