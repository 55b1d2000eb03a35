// SPDX-License-Identifier: Apache-2.0
//! One connection while the kernel moves its bytes: from the hand-over by the
//! relay until it goes back there, which is with whatever is not plain data.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::direction::Direction;
use super::super::metrics::PerDirection;
use super::super::relay::{Relay, Sockets};
use super::super::vigil::Vigil;
use super::metrics::Return;
use super::pair::Pair;
use super::watch::is_lost;
use super::{Sockmap, SockmapError};

/// How often a connection's bytes are counted; half as often each time that
/// nothing has moved.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_secs(60);

/// Between two looks at what the kernel's worker still has to write.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(32);

/// Small reads beyond which it does not matter any more.
const MOST_READS: u32 = 1 << 20;

/// When a connection is handed over.
pub(in super::super) struct Turn<'a> {
    sockmap: &'a Sockmap,
    /// Small reads, of both directions together.
    after_reads: u32,
    /// The kernel did not take it.
    is_refused: bool,
}

impl<'a> Turn<'a> {
    pub(in super::super) fn new(sockmap: &'a Sockmap) -> Self {
        Self { sockmap, after_reads: sockmap.after_reads, is_refused: false }
    }

    /// The kernel is to go on: nothing is under way, and for a while there was
    /// no bulk, which is better spliced.
    pub(in super::super) fn has_come(&self, directions: [&Direction; 2]) -> bool {
        let [Some(forward), Some(reply)] = directions.map(Direction::small_reads) else { return false };
        !self.is_refused && forward.saturating_add(reply) >= self.after_reads
    }

    /// A connection that came back for bulk or lack of room does so less often.
    fn wait_longer(&mut self) {
        self.after_reads = self.after_reads.max(8).saturating_mul(2).min(MOST_READS);
    }
}

/// Lets the kernel move the bytes of `sockets`, and gives them back when it
/// can't go on.
///
/// # Errors
/// The connection is to be reset: silent for too long, or bytes are missing.
pub(in super::super) async fn carry(
    turn: &mut Turn<'_>,
    sockets: Sockets,
    relay: &mut Relay,
    vigil: &mut Vigil<'_>,
    bytes: [&PerDirection; 3],
) -> io::Result<Sockets> {
    let (client, backend) = (sockets.client.into_std()?, sockets.backend.into_std()?);
    let both = [&client, &backend];
    match Pair::form(&turn.sockmap.maps, both) {
        Ok(pair) => {
            let metrics = &turn.sockmap.metrics;
            metrics.handovers.inc();
            metrics.pairs.inc();
            let _counted = Counted(turn.sockmap);
            let carried = Carried { sockmap: turn.sockmap, pair, both, bytes };
            let reason = carried.run(relay, vigil).await?;
            metrics.returns(reason).inc();
            turn.wait_longer();
        }
        Err(error) => {
            tracing::debug!(%error, "the kernel did not take a connection");
            turn.sockmap.metrics.refusals.inc();
            turn.is_refused = true;
            relay.forward.resume(None);
            relay.reply.resume(None);
        }
    }
    Ok(Sockets {
        client: tokio::net::TcpStream::from_std(client)?,
        backend: tokio::net::TcpStream::from_std(backend)?,
    })
}

/// Counts a pair until dropped.
struct Counted<'a>(&'a Sockmap);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.pairs.dec();
    }
}

struct Carried<'a> {
    sockmap: &'a Sockmap,
    pair: Pair,
    both: [&'a TcpStream; 2],
    bytes: [&'a PerDirection; 3],
}

impl Carried<'_> {
    async fn run(mut self, relay: &mut Relay, vigil: &mut Vigil<'_>) -> io::Result<Return> {
        let watched = self.sockmap.watch.watch(self.pair.cookies(), self.both)?;
        let reason = match self.pair.begin(self.both) {
            Ok(()) => self.wait(relay, vigil, &watched.notify).await?,
            // Nobody else will hear of it.
            Err(SockmapError::Lost(error)) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "a socket has ended meanwhile");
                Return::Late
            }
        };
        self.sockmap.watch.release(self.both);
        drop(watched);
        self.bring_back(relay).await.map(|switched| if switched { Return::Switched } else { reason })
    }

    /// Until there is something that the kernel leaves to us.
    async fn wait(
        &mut self,
        relay: &mut Relay,
        vigil: &mut Vigil<'_>,
        notify: &tokio::sync::Notify,
    ) -> io::Result<Return> {
        let mut pause = FIRST_LOOK;
        loop {
            let now = Instant::now();
            tokio::select! {
                () = notify.notified() => {
                    return Ok(if self.has_ended() { Return::Ended } else { Return::Bulk });
                }
                () = sleep_until(vigil.next(now).min(now + pause)) => {}
            }
            let has_moved = self.count(relay);
            let moved = relay.forward.moved() + relay.reply.moved();
            vigil.look(moved, self.both.map(SockRef::from), Instant::now())?;
            if !has_moved && self.pair.is_stalled(self.both)? {
                return Ok(Return::Stalled);
            }
            pause = if has_moved { FIRST_LOOK } else { (pause * 2).min(LAST_LOOK) };
        }
    }

    /// Stops the kernel, and waits until it has written all that it took.
    /// Whether one of the streams has switched.
    async fn bring_back(&mut self, relay: &mut Relay) -> io::Result<bool> {
        let [forward, reply] = match self.pair.stop(self.both) {
            Err(SockmapError::Torn) => return Err(self.torn()),
            stopped => stopped.map_err(io::Error::other)?,
        };
        let switched = self.pair.has_switched();
        let mut is_lost = [false; 2];
        for (number, is_lost) in is_lost.iter_mut().enumerate() {
            *is_lost = !self.is_written(number).await;
        }
        self.count(relay);
        if !is_lost[0] && !is_lost[1] && !self.pair.is_whole() {
            return Err(self.torn());
        }
        for (direction, mapped, is_lost) in
            [(&mut relay.forward, forward, is_lost[0]), (&mut relay.reply, reply, is_lost[1])]
        {
            direction.resume(mapped);
            if is_lost {
                direction.give_up();
            }
        }
        Ok(switched)
    }

    fn torn(&self) -> io::Error {
        self.sockmap.metrics.torn.inc();
        tracing::warn!("bytes are missing between two sockets: the connection is reset");
        io::ErrorKind::InvalidData.into()
    }

    /// Waits until all redirected bytes of a stream are written; false: they
    /// never will be, since the socket is lost.
    async fn is_written(&self, number: usize) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.pair.queued(number) {
                Some(0) => return true,
                Some(_) if !is_lost(self.both[1 - number]) => {}
                _ => return false,
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Adds what the kernel has moved to the connection's numbers; whether
    /// there was any.
    fn count(&mut self, relay: &mut Relay) -> bool {
        let [forward, reply] = self.pair.moved();
        relay.forward.add_moved(forward);
        relay.reply.add_moved(reply);
        for bytes in self.bytes {
            bytes.forward.inc_by(forward);
            bytes.reply.inc_by(reply);
        }
        forward + reply > 0
    }

    /// FIN or an error at one of the sockets.
    fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut asked = self.both.map(|side| PollFd::new(side, PollFlags::RDHUP));
        let at_once = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
        poll(&mut asked, at_once).is_ok_and(|ready| ready > 0)
    }
}
