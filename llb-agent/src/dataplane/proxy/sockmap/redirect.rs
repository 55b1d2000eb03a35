// SPDX-License-Identifier: Apache-2.0
//! One connection and the kernel: when the kernel takes it, the time while the
//! kernel moves its bytes, and how it comes back. The relay goes on with
//! everything that is not plain data.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

use super::super::liveness::Liveness;
use super::super::metrics::PerDirection;
use super::error::SockmapError;
use super::mapped::ReturnedStream;
use super::metrics::ReturnReason;
use super::pair::Pair;
use super::setup::Sockmap;
use super::watch::is_lost;
use crate::clock;
use crate::error_chain::ErrorChain;

/// How often a connection's bytes are counted. The interval doubles each time
/// that nothing has moved.
const FIRST_COUNT_INTERVAL: Duration = Duration::from_secs(1);
const LAST_COUNT_INTERVAL: Duration = Duration::from_secs(60);

/// How often to check what the kernel's worker still has to write. The interval
/// doubles each time.
const FIRST_WRITE_CHECK: Duration = Duration::from_millis(1);
const LAST_WRITE_CHECK: Duration = Duration::from_millis(32);

/// The fewest small reads that a connection waits for after it came back.
const LEAST_READS: u32 = 16;
/// The most small reads that a connection waits for.
const MOST_READS: u32 = 1 << 20;

/// One connection's use of sockmap. Index 0 of all pairs here is the client side
/// and the forward direction, index 1 the backend side and the reply direction.
pub(in super::super) struct Redirection<'a> {
    sockmap: &'a Sockmap,
    /// Small reads, of both directions together, after which the kernel takes over.
    after_reads: u32,
    /// The kernel did not take this connection, so it is not tried again.
    is_refused: bool,
}

/// A connection that has come back from the kernel.
pub(in super::super) struct Returned {
    pub(in super::super) sockets: [tokio::net::TcpStream; 2],
    pub(in super::super) streams: [ReturnedStream; 2],
}

impl<'a> Redirection<'a> {
    pub(in super::super) fn new(sockmap: &'a Sockmap) -> Self {
        Self { sockmap, after_reads: sockmap.after_reads, is_refused: false }
    }

    /// Whether the kernel should take over: nothing is under way (`Some`), and
    /// there were enough small reads since the last bulk read. Bulk is better spliced.
    pub(in super::super) fn is_due(&self, small_reads: [Option<u32>; 2]) -> bool {
        let [Some(forward), Some(reply)] = small_reads else { return false };
        !self.is_refused && forward.saturating_add(reply) >= self.after_reads
    }

    /// Lets the kernel move bytes between `sockets`, and returns them when the
    /// relay must go on. `moved_before` is what the relay has moved so far.
    ///
    /// # Errors
    /// The connection must be reset: it was idle for too long, or bytes were lost.
    pub(in super::super) async fn run(
        &mut self,
        [client, backend]: [tokio::net::TcpStream; 2],
        moved_before: u64,
        liveness: &mut Liveness<'_>,
        bytes: [&PerDirection; 3],
    ) -> io::Result<Returned> {
        let sockmap = self.sockmap;
        let (client, backend) = (client.into_std()?, backend.into_std()?);
        let sockets = [&client, &backend];
        let streams = match Pair::form(&sockmap.maps, sockets) {
            Ok(pair) => {
                sockmap.metrics.handovers.inc();
                let _counted = CountedPair::new(sockmap);
                let running = RunningPair { sockmap, pair, sockets, bytes, moved_before, moved: [0; 2] };
                let (streams, reason) = running.run(liveness).await?;
                sockmap.metrics.returns(reason).inc();
                self.wait_longer();
                streams
            }
            Err(error) => {
                let error = ErrorChain(&error);
                tracing::debug!(%error, "the kernel did not take a connection; it stays in user space");
                sockmap.metrics.refusals.inc();
                self.is_refused = true;
                Default::default()
            }
        };
        let [client, backend] = [client, backend].map(tokio::net::TcpStream::from_std);
        Ok(Returned { sockets: [client?, backend?], streams })
    }

    /// A connection that came back is taken again after twice as many reads.
    fn wait_longer(&mut self) {
        self.after_reads = self.after_reads.saturating_mul(2).clamp(LEAST_READS, MOST_READS);
    }
}

/// Counts as a pair until dropped.
struct CountedPair<'a>(&'a Sockmap);

impl<'a> CountedPair<'a> {
    fn new(sockmap: &'a Sockmap) -> Self {
        sockmap.metrics.pairs.inc();
        Self(sockmap)
    }
}

impl Drop for CountedPair<'_> {
    fn drop(&mut self) {
        self.0.metrics.pairs.dec();
    }
}

/// A connection whose bytes the kernel moves.
struct RunningPair<'a> {
    sockmap: &'a Sockmap,
    pair: Pair,
    sockets: [&'a TcpStream; 2],
    bytes: [&'a PerDirection; 3],
    moved_before: u64,
    /// Bytes that the kernel has moved, as far as they are counted.
    moved: [u64; 2],
}

impl RunningPair<'_> {
    async fn run(mut self, liveness: &mut Liveness<'_>) -> io::Result<([ReturnedStream; 2], ReturnReason)> {
        let watched = self.sockmap.watch.watch(self.pair.cookies(), self.sockets)?;
        let reason = match self.pair.begin(self.sockets) {
            Ok(()) => self.wait(liveness, &watched.notify).await?,
            // The kernel reports this error only once.
            Err(SockmapError::SocketLost(error)) => return Err(error),
            Err(error) => {
                let error = ErrorChain(&error);
                tracing::debug!(%error, "cannot start to redirect the bytes of a connection");
                ReturnReason::Late
            }
        };
        self.sockmap.watch.release(self.sockets);
        drop(watched);
        let (streams, has_switched) = self.bring_back().await?;
        Ok((streams, if has_switched { ReturnReason::Switched } else { reason }))
    }

    /// Waits until something happens that the relay must handle.
    async fn wait(&mut self, liveness: &mut Liveness<'_>, notify: &Notify) -> io::Result<ReturnReason> {
        let mut interval = FIRST_COUNT_INTERVAL;
        loop {
            let now = clock::now();
            tokio::select! {
                () = notify.notified() => {
                    return Ok(if self.has_ended() { ReturnReason::Ended } else { ReturnReason::Bulk });
                }
                () = sleep_until(liveness.next_check(now).min(now + interval)) => {}
            }
            let has_moved = self.count();
            let moved = self.moved_before + self.moved.iter().sum::<u64>();
            liveness.check(moved, self.sockets.map(SockRef::from), clock::now())?;
            if !has_moved && self.pair.is_stalled(self.sockets)? {
                return Ok(ReturnReason::Stalled);
            }
            interval = if has_moved { FIRST_COUNT_INTERVAL } else { (interval * 2).min(LAST_COUNT_INTERVAL) };
        }
    }

    /// Stops the kernel, and waits until it has written all that it took. Also
    /// returns whether the program has left one of the streams to the agent.
    async fn bring_back(&mut self) -> io::Result<([ReturnedStream; 2], bool)> {
        let [forward, reply] = match self.pair.stop(self.sockets) {
            Err(SockmapError::BytesLost) => return Err(self.bytes_lost()),
            stopped => stopped.map_err(io::Error::other)?,
        };
        let has_switched = self.pair.has_switched();
        let lost = [!self.is_written(0).await, !self.is_written(1).await];
        self.count();
        if lost == [false, false] && !self.pair.is_complete() {
            return Err(self.bytes_lost());
        }
        let [forward_moved, reply_moved] = self.moved;
        let streams = [
            ReturnedStream { moved: forward_moved, mapped: forward, is_lost: lost[0] },
            ReturnedStream { moved: reply_moved, mapped: reply, is_lost: lost[1] },
        ];
        Ok((streams, has_switched))
    }

    fn bytes_lost(&self) -> io::Error {
        self.sockmap.metrics.torn.inc();
        tracing::warn!("bytes were lost between the two sockets; the connection is reset");
        io::Error::new(io::ErrorKind::InvalidData, SockmapError::BytesLost)
    }

    /// Waits until all redirected bytes of a stream are written; false: they
    /// never will be, because the socket is lost.
    async fn is_written(&self, number: usize) -> bool {
        let mut interval = FIRST_WRITE_CHECK;
        loop {
            match self.pair.queued(number) {
                Some(0) => return true,
                Some(_) if !is_lost(self.sockets[1 - number]) => {}
                _ => return false,
            }
            sleep(interval).await;
            interval = (interval * 2).min(LAST_WRITE_CHECK);
        }
    }

    /// Adds what the kernel has moved to the counters; returns whether there was any.
    fn count(&mut self) -> bool {
        let [forward, reply] = self.pair.moved();
        self.moved[0] += forward;
        self.moved[1] += reply;
        for bytes in self.bytes {
            bytes.forward.inc_by(forward);
            bytes.reply.inc_by(reply);
        }
        forward + reply > 0
    }

    /// Whether one of the sockets has a FIN or an error.
    fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut asked = self.sockets.map(|socket| PollFd::new(socket, PollFlags::RDHUP));
        let at_once = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
        poll(&mut asked, at_once).is_ok_and(|ready| ready > 0)
    }
}
