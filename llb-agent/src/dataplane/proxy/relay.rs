//! Moving the bytes of one connection between its client side and its backend
//! side by copying, until both directions have ended. Knows nothing of
//! frontends, rules or limits.
//!
//! Both sockets come in set to reset on close; only a [`Ending::Clean`] allows
//! the caller to lift that. So whatever else ends a connection, no side ever
//! takes a torn stream for a complete one.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::metrics::PerDirection;

/// One buffer; a connection has at most two, one for each direction, and none
/// while it is idle. 16 KiB is one TLS record, and keeps the worst case (every
/// allowed connection stuck in both directions) at 32 KiB a connection.
pub(super) const RELAY_BUFFER_BYTES: usize = 16 * 1024;

/// After one side was reset, how long the other may still take what had
/// arrived before: an early error page followed by a reset should reach a slow
/// client. Also ends connections in which nobody reads the side that is gone.
pub(super) const RESET_GRACE: Duration = Duration::from_secs(3);

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Both sides sent FIN, and both got everything.
    Clean,
    /// A side was reset, timed out or could not be written to.
    Broken,
}

/// Relays until both directions have ended or one side is lost.
pub(super) async fn relay(client: &TcpStream, backend: &TcpStream, bytes: &PerDirection) -> Ending {
    let (client_lost, backend_lost) = (AtomicBool::new(false), AtomicBool::new(false));
    let client_side = Side { stream: client, lost: &client_lost };
    let backend_side = Side { stream: backend, lost: &backend_lost };
    let both_directions = async {
        let forward = pump(client_side, backend_side, &bytes.forward);
        tokio::try_join!(forward, pump(backend_side, client_side, &bytes.reply))
    };
    let ended = tokio::select! {
        ended = both_directions => ended,
        error = lost(client) => Err(error),
        error = lost(backend) => Err(error),
    };
    match ended {
        Ok((Ending::Clean, Ending::Clean)) => Ending::Clean,
        Ok(_) => Ending::Broken,
        Err(error) => {
            tracing::debug!(%error, "connection broken");
            Ending::Broken
        }
    }
}

/// One of the two sockets, and what is known of it.
#[derive(Clone, Copy)]
struct Side<'a> {
    stream: &'a TcpStream,
    /// A write failed. The kernel tells an error once: whoever meets it first
    /// takes it away, and a reset then looks like EOF to the reader.
    lost: &'a AtomicBool,
}

/// One direction. EOF is passed on as FIN, the other direction goes on.
///
/// A read error ends the relay: all that came before it has been passed on. A
/// write error ends only this direction (`Broken`), so that what `to` had sent
/// before it went away still gets through.
async fn pump(from: Side<'_>, to: Side<'_>, bytes: &Counter) -> io::Result<Ending> {
    loop {
        from.stream.readable().await?;
        let mut buffer = Vec::with_capacity(RELAY_BUFFER_BYTES);
        let finished = match from.stream.try_read_buf(&mut buffer) {
            Ok(0) if from.lost.load(Ordering::Relaxed) => return Err(ErrorKind::ConnectionReset.into()),
            Ok(0) => true,
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let written = if finished {
            SockRef::from(to.stream).shutdown(Shutdown::Write)
        } else {
            write_all(to.stream, &buffer, bytes).await
        };
        if let Err(error) = written {
            to.lost.store(true, Ordering::Relaxed);
            tracing::debug!(%error, "one direction of a connection broken");
            return Ok(Ending::Broken);
        }
        if finished {
            return Ok(Ending::Clean);
        }
        // Two fast sides must not keep a thread from the other connections.
        tokio::task::consume_budget().await;
    }
}

async fn write_all(to: &TcpStream, mut rest: &[u8], bytes: &Counter) -> io::Result<()> {
    while !rest.is_empty() {
        to.writable().await?;
        match to.try_write(rest) {
            Ok(written) => {
                rest = &rest[written..];
                bytes.inc_by(written as u64);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns [`RESET_GRACE`] after the kernel has reported an error (reset,
/// keepalive without answer) on `side`, even while nobody reads or writes it.
async fn lost(side: &TcpStream) -> io::Error {
    match side.ready(Interest::ERROR).await {
        Ok(_) => {
            tokio::time::sleep(RESET_GRACE).await;
            ErrorKind::ConnectionReset.into()
        }
        Err(error) => error,
    }
}
