// SPDX-License-Identifier: Apache-2.0
//! Tries on loopback what earlier kernels got wrong: data that arrived before the
//! sockets were in the maps, a reader that does not read, and the end of a
//! stream. Takes some milliseconds. A step that exceeds its limit has failed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use super::error::SockmapError;
use super::loopback::{LIMIT, Line, expect, take, wait_readable, within};
use super::mapped::Mapped;
use super::maps::Maps;
use super::pair::Pair;

/// Bytes that are offered while the reader does not read.
const PUSH: usize = 8 << 20;
/// The most of them that may be taken: four buffers of the connection, and what
/// the program allows between the sockets.
const MOST_UNDER_WAY: usize = 2 << 20;

/// # Errors
/// The step that failed and why, or why it could not be tried.
pub(super) fn run(maps: &Arc<Maps>) -> Result<(), SockmapError> {
    let failed = |step: &'static str| move |source: io::Error| SockmapError::SelfTest { step, source };
    let mut line = Line::new().map_err(failed("loopback can't be used"))?;
    let pair =
        early_data(maps, &mut line)?.map_err(failed("data from before the sockets were in the maps"))?;
    stuck_reader(pair, &mut line)?.map_err(failed("a reader that does not read"))?;
    let mut line = Line::new().map_err(failed("loopback can't be used"))?;
    end(maps, &mut line)?.map_err(failed("the end of a stream"))
}

/// Each peer sends before the sockets are in the maps, and the client once more after.
fn early_data(maps: &Arc<Maps>, line: &mut Line) -> Result<io::Result<Pair>, SockmapError> {
    let early = (|| {
        line.client.write_all(b"early")?;
        line.server.write_all(b"first")?;
        wait_readable(&line.inner)
    })();
    if let Err(error) = early {
        return Ok(Err(error));
    }
    let pair = Pair::form(maps, line.both())?;
    pair.begin(line.both())?;
    Ok((|| {
        expect(&mut line.server, b"early")?;
        expect(&mut line.client, b"first")?;
        line.client.write_all(b"later")?;
        expect(&mut line.server, b"later")?;
        Ok(pair)
    })())
}

/// The client must be stopped, and nothing may be lost when the reader goes on.
fn stuck_reader(mut pair: Pair, line: &mut Line) -> Result<io::Result<()>, SockmapError> {
    let pattern: Vec<u8> = (0..PUSH).map(|index| (index % 251) as u8).collect();
    let pushed = match line.push(&pattern) {
        Ok(pushed) => pushed,
        Err(error) => return Ok(Err(error)),
    };
    if pushed > MOST_UNDER_WAY {
        return Ok(Err(io::Error::other(format!("{pushed} bytes were taken from a client that must wait"))));
    }
    let [forward, reply] = pair.stop(line.both())?;
    let (Some(forward), None) = (forward, reply) else {
        return Ok(Err(io::Error::other("the program did not stop although there was no room")));
    };
    Ok(relay_the_rest(&pair, forward, line, &pattern[..pushed]))
}

/// Relays `expected` to its end, in place of the kernel; the reader reads now.
fn relay_the_rest(pair: &Pair, mut forward: Mapped, line: &mut Line, expected: &[u8]) -> io::Result<()> {
    line.server.set_nonblocking(true)?;
    let (mut received, mut unwritten) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    within(LIMIT, || Ok((pair.queued(0) == Some(0)).then_some(())))
        .map_err(|error| describe(&error, format!("{:?} bytes wait for the kernel", pair.queued(0))))?;
    within(LIMIT, || {
        take(&mut line.server, &mut buffer, &mut received)?;
        if unwritten.is_empty() {
            let read = take(&mut line.inner[0], &mut buffer, &mut unwritten)?;
            forward.count(read);
        }
        match line.inner[1].write(&unwritten) {
            Ok(written) => _ = unwritten.drain(..written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok((received.len() >= expected.len()).then_some(()))
    })
    .map_err(|error| {
        let (came, of, rest) = (received.len(), expected.len(), unwritten.len());
        describe(&error, format!("{came} of {of} bytes were received, {rest} are unwritten, {forward:?}"))
    })?;
    if received != expected {
        return Err(io::Error::other("received other bytes than were sent"));
    }
    within(LIMIT, || Ok(forward.release(&line.inner[0])?.then_some(())))
}

fn describe(error: &io::Error, detail: String) -> io::Error {
    io::Error::new(error.kind(), format!("{error}: {detail}"))
}

/// All that was sent before FIN must arrive before it.
fn end(maps: &Arc<Maps>, line: &mut Line) -> Result<io::Result<()>, SockmapError> {
    let mut pair = Pair::form(maps, line.both())?;
    pair.begin(line.both())?;
    let pattern = [7; 10_000];
    if let Err(error) = line.client.write_all(&pattern).and_then(|()| line.client.shutdown(Shutdown::Write)) {
        return Ok(Err(error));
    }
    let waited =
        within(LIMIT, || Ok((pair.queued(0) == Some(0) && pair.has_moved(pattern.len())).then_some(())));
    let _mapped = pair.stop(line.both())?;
    let is_incomplete = pair.has_switched() || !pair.is_complete();
    drop(pair);
    Ok((|| {
        waited?;
        if is_incomplete {
            return Err(io::Error::other("the program did not redirect everything"));
        }
        // Only FIN is left in the socket.
        let mut rest = [0; 1];
        within(LIMIT, || match line.inner[0].read(&mut rest) {
            Ok(0) => Ok(Some(())),
            Ok(_) => Err(io::Error::other("received more bytes than were sent")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        })?;
        line.inner[1].shutdown(Shutdown::Write)?;
        let mut received = Vec::new();
        line.server.read_to_end(&mut received)?;
        if received == pattern {
            Ok(())
        } else {
            Err(io::Error::other(format!("received {} of {} bytes", received.len(), pattern.len())))
        }
    })())
}
