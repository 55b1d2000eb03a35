// SPDX-License-Identifier: Apache-2.0
//! Relays one connection between its client side and its backend side, until
//! both directions have ended, a side is lost, or it was idle for too long.
//! Knows nothing of frontends, rules or limits. How bytes move in user space is
//! in `direction.rs`; `sockmap/` has what happens while the kernel moves them.
//!
//! Closing either socket resets it (`sides.rs`). Only after [`Ending::Clean`] of
//! both directions may the caller lift that. So whatever else ends a connection,
//! no side takes a stream that lost bytes for a complete one.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until};

use super::direction::{Direction, Ending, Side};
use super::liveness::Liveness;
use super::metrics::PerDirection;
use super::sides::Sides;
use super::sockmap::{Redirection, Sockmap};
use crate::clock;
use crate::config::RelayConfig;

/// After one side was reset, how long the other may still take what arrived
/// before: an early error page followed by a reset should reach a slow client.
/// This also ends connections in which no direction reads the side that is gone.
const RESET_GRACE: Duration = Duration::from_secs(3);

/// One connection.
#[derive(Debug)]
pub(super) struct Relay {
    forward: Direction,
    reply: Direction,
}

/// How relaying in user space ended.
enum Step {
    Ended(Ending),
    /// Nothing is unwritten, and the kernel should move the bytes from here on.
    Redirect,
}

impl Relay {
    /// Nothing has moved yet.
    pub(super) fn new(config: &RelayConfig) -> Self {
        Self { forward: Direction::new(config.splice), reply: Direction::new(config.splice) }
    }

    /// Reads what `client` has sent already, before there is a backend.
    ///
    /// # Errors
    /// The client is lost already.
    pub(super) fn read_ahead(&mut self, client: &TcpStream) -> io::Result<()> {
        self.forward.read_ahead(client)
    }

    /// Whether the backend will get something at once.
    pub(super) fn has_read(&self) -> bool {
        self.forward.has_read()
    }

    /// Relays until both directions have ended or one side is lost: in user
    /// space, and through `sockmap` while that is possible. The sides are
    /// returned if they may be closed without a reset.
    pub(super) async fn run(
        mut self,
        mut sides: Sides,
        config: &RelayConfig,
        sockmap: Option<&Sockmap>,
        bytes: [&PerDirection; 3],
    ) -> Option<Sides> {
        let mut liveness = Liveness::new(config, clock::now());
        let mut redirection = sockmap.map(Redirection::new);
        loop {
            let outcome = match self.in_user_space(&sides, &mut liveness, redirection.as_ref(), bytes).await {
                Ok(Step::Ended(Ending::Clean)) => return Some(sides),
                Ok(Step::Ended(Ending::Broken)) => return None,
                Ok(Step::Redirect) => match &mut redirection {
                    Some(redirection) => self.in_kernel(redirection, sides, &mut liveness, bytes).await,
                    None => return None,
                },
                Err(error) => Err(error),
            };
            match outcome {
                Ok(returned) => sides = returned,
                Err(error) => {
                    tracing::debug!(%error, "the connection is reset");
                    return None;
                }
            }
        }
    }

    async fn in_kernel(
        &mut self,
        redirection: &mut Redirection<'_>,
        Sides { client, backend }: Sides,
        liveness: &mut Liveness<'_>,
        bytes: [&PerDirection; 3],
    ) -> io::Result<Sides> {
        let returned = redirection.run([client, backend], self.moved(), liveness, bytes).await?;
        let [client, backend] = returned.sockets;
        let [forward, reply] = returned.streams;
        self.forward.resume(forward);
        self.reply.resume(reply);
        Ok(Sides { client, backend })
    }

    async fn in_user_space(
        &mut self,
        sides: &Sides,
        liveness: &mut Liveness<'_>,
        redirection: Option<&Redirection<'_>>,
        bytes: [&PerDirection; 3],
    ) -> io::Result<Step> {
        let Self { forward, reply } = self;
        let (mut client_side, mut backend_side) = (Side::new(&sides.client), Side::new(&sides.backend));
        let (mut client_lost, mut backend_lost) = (pin!(lost(&sides.client)), pin!(lost(&sides.backend)));
        let mut next_check = pin!(sleep_until(liveness.next_check(clock::now())));
        let count_forward = |moved| bytes.iter().for_each(|bytes| _ = bytes.forward.inc_by(moved));
        let count_reply = |moved| bytes.iter().for_each(|bytes| _ = bytes.reply.inc_by(moved));

        poll_fn(|context| {
            let (client, backend) = (&mut client_side, &mut backend_side);
            let _ = forward.poll(context, client, backend, reply.ended().is_some(), &count_forward)?;
            let _ = reply.poll(context, backend, client, forward.ended().is_some(), &count_reply)?;
            match (forward.ended(), reply.ended()) {
                (Some(Ending::Clean), Some(Ending::Clean)) => {
                    return Poll::Ready(io::Result::Ok(Step::Ended(Ending::Clean)));
                }
                (Some(_), Some(_)) => return Poll::Ready(Ok(Step::Ended(Ending::Broken))),
                _ => {}
            }
            if let Some(redirection) = redirection
                && redirection.is_due([forward.small_reads(), reply.small_reads()])
            {
                return Poll::Ready(Ok(Step::Redirect));
            }
            // A direction that reads a side sees its errors; otherwise they must be watched for.
            if !forward.is_reading() {
                ready_error(client_lost.as_mut().poll(context))?;
            }
            if !reply.is_reading() {
                ready_error(backend_lost.as_mut().poll(context))?;
            }
            while next_check.as_mut().poll(context).is_ready() {
                let sockets = [client.stream, backend.stream].map(SockRef::from);
                liveness.check(forward.moved() + reply.moved(), sockets, clock::now())?;
                next_check.as_mut().reset(liveness.next_check(clock::now()));
            }
            Poll::Pending
        })
        .await
    }

    fn moved(&self) -> u64 {
        self.forward.moved() + self.reply.moved()
    }
}

fn ready_error(error: Poll<io::Error>) -> io::Result<()> {
    match error {
        Poll::Ready(error) => Err(error),
        Poll::Pending => Ok(()),
    }
}

/// Completes [`RESET_GRACE`] after the kernel has reported an error of `side` (a
/// reset, or keepalive without an answer), even while no direction reads or writes it.
async fn lost(side: &TcpStream) -> io::Error {
    match side.ready(Interest::ERROR).await {
        Ok(_) => {
            sleep(RESET_GRACE).await;
            ErrorKind::ConnectionReset.into()
        }
        Err(error) => error,
    }
}
