// SPDX-License-Identifier: Apache-2.0
//! One connection between its client side and its backend side, until both
//! directions have ended, a side is lost, or nothing has moved for too long.
//! Knows nothing of frontends, rules or limits; how bytes move is in
//! `direction.rs`, and in `sockmap/` while the kernel moves them.
//!
//! Both sockets come in set to reset on close; only a [`Ending::Clean`] allows
//! the caller to lift that. So whatever else ends a connection, no side ever
//! takes a torn stream for a complete one.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use super::RelayConfig;
use super::direction::{Direction, Side};
use super::metrics::PerDirection;
use super::sockmap::{Sockmap, Turn, carry};
use super::vigil::Vigil;

/// After one side was reset, how long the other may still take what had
/// arrived before: an early error page followed by a reset should reach a slow
/// client. Also ends connections in which nobody reads the side that is gone.
pub(super) const RESET_GRACE: Duration = Duration::from_secs(3);

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Both sides sent FIN, and both got everything.
    Clean,
    /// A side was reset, timed out, could not be written to, or both were silent.
    Broken,
}

/// The two sockets of a connection.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) client: TcpStream,
    pub(super) backend: TcpStream,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) forward: Direction,
    pub(super) reply: Direction,
}

/// What the relay in user space came to.
enum Step {
    Ended(Ending),
    /// Nothing is carried: the kernel could go on.
    HandOver,
}

impl Relay {
    /// Nothing has moved yet.
    pub(super) fn new(config: &RelayConfig) -> Self {
        Self { forward: Direction::new(config.splice), reply: Direction::new(config.splice) }
    }

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

    /// Relays until both directions have ended or one side is lost; in user
    /// space, and by `sockmap` whenever that is there and both sides suit it.
    /// The sockets come back if they may be closed without a reset.
    pub(super) async fn run(
        mut self,
        mut sockets: Sockets,
        config: &RelayConfig,
        sockmap: Option<&Sockmap>,
        bytes: [&PerDirection; 3],
    ) -> Option<Sockets> {
        let mut vigil = Vigil::new(config);
        let mut turn = sockmap.map(Turn::new);
        loop {
            let outcome = match self.in_user_space(&sockets, &mut vigil, turn.as_ref(), bytes).await {
                Ok(Step::Ended(Ending::Clean)) => return Some(sockets),
                Ok(Step::Ended(Ending::Broken)) => return None,
                Ok(Step::HandOver) => match &mut turn {
                    Some(turn) => carry(turn, sockets, &mut self, &mut vigil, bytes).await,
                    None => return None,
                },
                Err(error) => Err(error),
            };
            match outcome {
                Ok(back) => sockets = back,
                Err(error) => {
                    tracing::debug!(%error, "connection broken");
                    return None;
                }
            }
        }
    }

    async fn in_user_space(
        &mut self,
        sockets: &Sockets,
        vigil: &mut Vigil<'_>,
        turn: Option<&Turn<'_>>,
        bytes: [&PerDirection; 3],
    ) -> io::Result<Step> {
        let Self { forward, reply } = self;
        let (mut client_side, mut backend_side) = (Side::new(&sockets.client), Side::new(&sockets.backend));
        let (mut client_lost, mut backend_lost) = (pin!(lost(&sockets.client)), pin!(lost(&sockets.backend)));
        let mut look = pin!(sleep_until(vigil.next(Instant::now())));
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
            if turn.is_some_and(|turn| turn.has_come([forward, reply])) {
                return Poll::Ready(Ok(Step::HandOver));
            }
            // Whoever reads a side sees its errors; else somebody must watch for them.
            if !forward.is_reading() {
                ready_error(client_lost.as_mut().poll(context))?;
            }
            if !reply.is_reading() {
                ready_error(backend_lost.as_mut().poll(context))?;
            }
            while look.as_mut().poll(context).is_ready() {
                let sides = [client.stream, backend.stream].map(SockRef::from);
                vigil.look(forward.moved() + reply.moved(), sides, Instant::now())?;
                look.as_mut().reset(vigil.next(Instant::now()));
            }
            Poll::Pending
        })
        .await
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
