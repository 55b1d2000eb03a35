// SPDX-License-Identifier: Apache-2.0
//! Whether one connection is still alive: its idle time-out, and keepalive for
//! its peers. The number of bytes moved and the time are arguments.

use std::io::{self, ErrorKind};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::time::Instant;

use crate::config::RelayConfig;

/// A connection of this age gets keepalive. Most end sooner, which saves them
/// the system calls.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// The kernel probes a side that has been silent for this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between two probes without an answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// After this many unanswered probes a side is lost: 60 s + 4 x 15 s = 2 min.
const KEEPALIVE_PROBES: u32 = 4;

/// Checks in one idle time-out. An idle connection lives at most a quarter of
/// the time-out longer.
const CHECKS_PER_TIMEOUT: u32 = 4;

/// The idle time-out and keepalive of one connection.
#[derive(Debug)]
pub(super) struct Liveness<'a> {
    config: &'a RelayConfig,
    idle: IdleTime,
    began: Instant,
    has_keepalive: bool,
}

impl<'a> Liveness<'a> {
    /// For a connection that begins `now`.
    pub(super) fn new(config: &'a RelayConfig, now: Instant) -> Self {
        Self { config, idle: IdleTime::new(config.tcp_idle_timeout, now), began: now, has_keepalive: false }
    }

    /// The latest time for the next check.
    pub(super) fn next_check(&self, now: Instant) -> Instant {
        let keepalive = self.began + KEEPALIVE_AFTER;
        let idle = now + self.idle.check_interval();
        if self.has_keepalive { idle } else { idle.min(keepalive) }
    }

    /// `moved` is the number of bytes so far, of both directions together.
    ///
    /// # Errors
    /// The connection was idle for too long, or a side is gone.
    pub(super) fn check(&mut self, moved: u64, sides: [SockRef<'_>; 2], now: Instant) -> io::Result<()> {
        if !self.has_keepalive && now >= self.began + KEEPALIVE_AFTER {
            sides.into_iter().try_for_each(|side| set_keepalive(&side, self.config))?;
            self.has_keepalive = true;
        }
        if self.idle.is_over(moved, now) { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Lets the kernel notice a peer that has vanished: by keepalive, and by
/// `tcp_user_timeout` when data stays unacknowledged for that long. The latter
/// also cuts a peer that pauses reading for that long (tcp(7)), which the kernel's
/// own limit (`net.ipv4.tcp_retries2`) does not, so it is set only on request.
fn set_keepalive(side: &SockRef<'_>, config: &RelayConfig) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    side.set_tcp_keepalive(&keepalive)?;
    if config.tcp_user_timeout.is_some() {
        side.set_tcp_user_timeout(config.tcp_user_timeout)?;
    }
    Ok(())
}

/// How long nothing has moved in either direction.
#[derive(Debug)]
struct IdleTime {
    limit: Duration,
    /// Bytes moved, at the last check.
    moved: u64,
    since: Instant,
}

impl IdleTime {
    fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, moved: 0, since: now }
    }

    fn check_interval(&self) -> Duration {
        self.limit / CHECKS_PER_TIMEOUT
    }

    fn is_over(&mut self, moved: u64, now: Instant) -> bool {
        if moved != self.moved {
            *self = Self { moved, since: now, ..*self };
        }
        now.duration_since(self.since) >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn idle_time_counts_from_the_check_that_saw_the_last_byte() {
        let (limit, start) = (Duration::from_secs(8), clock::now());
        let mut idle = IdleTime::new(limit, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(idle.check_interval(), Duration::from_secs(2));
        assert!(!idle.is_over(0, at(7)));
        assert!(!idle.is_over(1, at(9)), "something moved just in time");
        assert!(!idle.is_over(1, at(16)));
        assert!(idle.is_over(1, at(17)));
    }
}
