// SPDX-License-Identifier: Apache-2.0
//! HTTP load by `wrk`, with a new connection for each request, that continues while something else happens. The
//! test decides how many failures are acceptable.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::{Host, Process};

/// Requests that are under way at the same time.
const CONNECTIONS: u32 = 16;

/// A request that takes longer counts as failed. This is more than a lost SYN costs (1 s, RFC 6298) plus one
/// connect time-out of llb, so only requests that are really lost count.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bound for a load that is never stopped.
const LONGEST: Duration = Duration::from_secs(300);

/// Time for the last answers and the report.
const END_LIMIT: Duration = Duration::from_secs(15);

/// A running `wrk`; killed when dropped.
#[derive(Debug)]
pub struct Wrk {
    process: Process,
}

/// The outcome of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Number of requests with an answer, whatever its status.
    pub answered: u64,
    /// The lines of `wrk`'s report about failures; empty if there were none.
    pub failures: Vec<String>,
}

impl Wrk {
    /// Starts to send requests from `host` at once.
    ///
    /// # Errors
    /// `wrk` cannot be started. It is in Debian's package `wrk`.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let mut command = host.command("wrk");
        command
            .args(["--threads", "1", "--connections", &CONNECTIONS.to_string()])
            .args(["--timeout", &format!("{}s", PATIENCE.as_secs())])
            .args(["--duration", &format!("{}s", LONGEST.as_secs())])
            .args(["--header", "Connection: close", &format!("http://{address}/")]);
        // Each run has its own log, which holds its report.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let log = format!("wrk-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Ok(Self { process: host.spawn(command, &log)? })
    }

    /// Ends the load and returns its outcome.
    ///
    /// # Errors
    /// It has ended before, or its report cannot be parsed.
    pub fn stop(mut self) -> Result<Outcome> {
        self.process.signal(Signal::INT)?;
        self.process.wait_exit(END_LIMIT)?;
        parse(&self.process.log())
    }
}

fn parse(report: &str) -> Result<Outcome> {
    let lines = || report.lines().map(str::trim);
    let answered = lines().find_map(|line| line.split_once(" requests in ")?.0.parse().ok());
    let is_failure = |line: &&str| line.starts_with("Socket errors:") || line.starts_with("Non-2xx");
    Ok(Outcome {
        answered: answered.with_context(|| format!("not a report of wrk:\n{report}"))?,
        failures: lines().filter(is_failure).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failures_of_a_report_are_parsed() {
        let report = "Running 5m test @ http://192.0.2.1:80/\n  1 threads and 16 connections\n  \
                      121609 requests in 12.02s, 6.96MB read\n  \
                      Socket errors: connect 0, read 517, write 2, timeout 0\n  \
                      Non-2xx or 3xx responses: 7\nRequests/sec:  10113.64\n";
        let outcome = parse(report).unwrap();
        assert_eq!(outcome.answered, 121_609);
        let failures =
            ["Socket errors: connect 0, read 517, write 2, timeout 0", "Non-2xx or 3xx responses: 7"];
        assert_eq!(outcome.failures, failures);
        let good = parse("  3 requests in 1.00s, 1KB read\n").unwrap();
        assert_eq!(good, Outcome { answered: 3, failures: Vec::new() });
        assert!(parse("unable to connect to 192.0.2.1:80 Connection refused").is_err());
    }
}
