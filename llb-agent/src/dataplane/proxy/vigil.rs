// SPDX-License-Identifier: Apache-2.0
//! The time of one connection: how long it has been silent, and when its peers
//! are asked whether they still exist. Whoever moves the bytes tells how many.

use std::io::{self, ErrorKind};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::time::Instant;

use super::RelayConfig;

/// A connection that lasts so long gets keepalive; most end before, and are
/// spared its calls.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// A side that was silent for so long is asked whether it still exists.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Between two questions without answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Questions without answer after which a side is lost: 60 s + 4 x 15 s = 2 min.
const KEEPALIVE_PROBES: u32 = 4;

/// How often a connection is looked at in one idle time-out, so a silent one
/// lives at most a quarter longer.
const LOOKS_PER_TIMEOUT: u32 = 4;

/// Of one connection.
#[derive(Debug)]
pub(super) struct Vigil<'a> {
    config: &'a RelayConfig,
    silence: Silence,
    began: Instant,
    has_keepalive: bool,
}

impl<'a> Vigil<'a> {
    pub(super) fn new(config: &'a RelayConfig) -> Self {
        let (silence, began) = (Silence::new(config.tcp_idle_timeout), Instant::now());
        Self { config, silence, began, has_keepalive: false }
    }

    /// When to look next, at the latest.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let keepalive = self.began + KEEPALIVE_AFTER;
        let silence = now + self.silence.interval();
        if self.has_keepalive { silence } else { silence.min(keepalive) }
    }

    /// `moved` bytes so far, in both directions.
    ///
    /// # Errors
    /// Silent for too long, or a side is gone.
    pub(super) fn look(&mut self, moved: u64, sides: [SockRef<'_>; 2], now: Instant) -> io::Result<()> {
        if !self.has_keepalive && now >= self.began + KEEPALIVE_AFTER {
            sides.into_iter().try_for_each(|side| keep_alive(&side, self.config))?;
            self.has_keepalive = true;
        }
        if self.silence.is_too_long(moved, now) { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// A peer that vanished is noticed: when it should answer keepalive, or, if it
/// is asked for, when it has not acknowledged data for `tcp_user_timeout`. The
/// latter also cuts a peer that is there and pauses reading for so long
/// (tcp(7)); the kernel's own limit (`net.ipv4.tcp_retries2`) does not.
fn keep_alive(side: &SockRef<'_>, config: &RelayConfig) -> io::Result<()> {
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
struct Silence {
    limit: Duration,
    /// Bytes moved, at the last look.
    moved: u64,
    since: Instant,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, moved: 0, since: Instant::now() }
    }

    fn interval(&self) -> Duration {
        self.limit / LOOKS_PER_TIMEOUT
    }

    fn is_too_long(&mut self, moved: u64, now: Instant) -> bool {
        if moved != self.moved {
            *self = Self { moved, since: now, ..*self };
        }
        now.duration_since(self.since) >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_look_that_saw_the_last_byte() {
        let limit = Duration::from_secs(8);
        let mut silence = Silence::new(limit);
        let start = silence.since;
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(silence.interval(), Duration::from_secs(2));
        assert!(!silence.is_too_long(0, at(7)));
        assert!(!silence.is_too_long(1, at(9)), "something moved just in time");
        assert!(!silence.is_too_long(1, at(16)));
        assert!(silence.is_too_long(1, at(17)));
    }
}
