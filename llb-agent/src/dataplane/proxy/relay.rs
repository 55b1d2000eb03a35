//! One connection between its client side and its backend side, until both
//! directions have ended, a side is lost, or nothing has moved for too long.
//! Knows nothing of frontends, rules or limits; how bytes move is in
//! `direction.rs`.
//!
//! Both sockets come in set to reset on close; only a [`Ending::Clean`] allows
//! the caller to lift that. So whatever else ends a connection, no side ever
//! takes a torn stream for a complete one.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::RelayConfig;
use super::direction::{Direction, Side};
use super::metrics::PerDirection;

/// After one side was reset, how long the other may still take what had
/// arrived before: an early error page followed by a reset should reach a slow
/// client. Also ends connections in which nobody reads the side that is gone.
pub(super) const RESET_GRACE: Duration = Duration::from_secs(3);

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

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Both sides sent FIN, and both got everything.
    Clean,
    /// A side was reset, timed out, could not be written to, or both were silent.
    Broken,
}

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Relay {
    forward: Direction,
    reply: Direction,
}

impl Relay {
    /// Takes what `client` has sent already, while there is no backend yet.
    ///
    /// # Errors
    /// The client is lost already.
    pub(super) fn read_ahead(&mut self, client: &TcpStream) -> io::Result<()> {
        self.forward.read_ahead(client)
    }

    /// The backend will get something at once.
    pub(super) fn has_read(&self) -> bool {
        self.forward.has_read()
    }

    /// Relays until both directions have ended or one side is lost.
    pub(super) async fn run(
        self,
        client: &TcpStream,
        backend: &TcpStream,
        config: &RelayConfig,
        bytes: [&PerDirection; 3],
    ) -> Ending {
        let Self { mut forward, mut reply } = self;
        let (mut client_side, mut backend_side) = (Side::new(client), Side::new(backend));
        let (mut client_lost, mut backend_lost) = (pin!(lost(client)), pin!(lost(backend)));
        let mut silence = Silence::new(config.tcp_idle_timeout);
        let mut look = pin!(sleep(KEEPALIVE_AFTER.min(silence.interval())));
        let mut has_keepalive = false;
        let count_forward = |moved| {
            for bytes in bytes {
                bytes.forward.inc_by(moved);
            }
        };
        let count_reply = |moved| {
            for bytes in bytes {
                bytes.reply.inc_by(moved);
            }
        };

        let ended = poll_fn(|context| {
            let (client, backend) = (&mut client_side, &mut backend_side);
            let _ = forward.poll(context, client, backend, reply.ended().is_some(), &count_forward)?;
            let _ = reply.poll(context, backend, client, forward.ended().is_some(), &count_reply)?;
            if let (Some(forward), Some(reply)) = (forward.ended(), reply.ended()) {
                return Poll::Ready(io::Result::Ok((forward, reply)));
            }
            // Whoever reads a side sees its errors; else somebody must watch for them.
            if !forward.is_reading() {
                ready_error(client_lost.as_mut().poll(context))?;
            }
            if !reply.is_reading() {
                ready_error(backend_lost.as_mut().poll(context))?;
            }
            while look.as_mut().poll(context).is_ready() {
                if !has_keepalive {
                    keep_alive(client.stream, config)?;
                    keep_alive(backend.stream, config)?;
                    has_keepalive = true;
                }
                let now = Instant::now();
                if silence.is_too_long(forward.moved() + reply.moved(), now) {
                    return Poll::Ready(Err(ErrorKind::TimedOut.into()));
                }
                look.as_mut().reset(now + silence.interval());
            }
            Poll::Pending
        });
        match ended.await {
            Ok((Ending::Clean, Ending::Clean)) => Ending::Clean,
            Ok(_) => Ending::Broken,
            Err(error) => {
                tracing::debug!(%error, "connection broken");
                Ending::Broken
            }
        }
    }
}

fn ready_error(error: Poll<io::Error>) -> io::Result<()> {
    match error {
        Poll::Ready(error) => Err(error),
        Poll::Pending => Ok(()),
    }
}

/// Returns [`RESET_GRACE`] after the kernel has reported an error (reset,
/// keepalive without answer) on `side`, even while nobody reads or writes it.
async fn lost(side: &TcpStream) -> io::Error {
    match side.ready(Interest::ERROR).await {
        Ok(_) => {
            sleep(RESET_GRACE).await;
            ErrorKind::ConnectionReset.into()
        }
        Err(error) => error,
    }
}

/// A peer that vanished is noticed: when it should answer keepalive, or, if it
/// is asked for, when it has not acknowledged data for `tcp_user_timeout`. The
/// latter also cuts a peer that is there and pauses reading for so long
/// (tcp(7)); the kernel's own limit (`net.ipv4.tcp_retries2`) does not.
fn keep_alive(side: &TcpStream, config: &RelayConfig) -> io::Result<()> {
    let side = SockRef::from(side);
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
