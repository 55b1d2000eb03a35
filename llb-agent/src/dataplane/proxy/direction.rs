// SPDX-License-Identifier: Apache-2.0
//! One direction of a connection: bytes from one socket to the other, by
//! copying while they come in small pieces and by splice(2) while they come in
//! bulk, until FIN has been passed on. Two of them are a relay (`relay.rs`).

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pipe::Pipe;
use super::relay::Ending;
use super::sockmap::Mapped;

/// What one read takes. A read that fills it is taken for bulk. Each worker
/// has one such buffer for all its connections: what is read is written at
/// once, and only a rest that `to` does not take yet gets memory of its own.
/// 16 KiB is one TLS record.
pub(super) const COPY_BYTES: usize = 16 * 1024;

/// What one direction moves before other connections of the worker have their turn.
const TURN_BYTES: u64 = 1024 * 1024;

thread_local! {
    static COPY_BUFFER: RefCell<[u8; COPY_BYTES]> = const { RefCell::new([0; COPY_BYTES]) };
}

/// One of the two sockets, and what is known of it.
#[derive(Debug)]
pub(super) struct Side<'a> {
    pub(super) stream: &'a TcpStream,
    /// A write failed. The kernel tells an error once: whoever meets it first
    /// takes it away, and a reset then looks like EOF to the reader.
    is_lost: bool,
}

impl<'a> Side<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Self {
        Self { stream, is_lost: false }
    }
}

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Direction {
    carried: Carried,
    /// `to` took less than was offered, and has not said yet that it takes more.
    is_blocked: bool,
    /// The last read filled its buffer.
    is_bulk: bool,
    has_eof: bool,
    ended: Option<Ending>,
    /// Bytes written.
    moved: u64,
    /// Bulk data is copied like any other.
    only_copies: bool,
    /// Reads since the last one that was bulk.
    small_reads: u32,
    /// `from` is still known to the kernel's programs.
    mapped: Option<Mapped>,
}

/// Read and not yet written.
#[derive(Debug, Default)]
enum Carried {
    #[default]
    Nothing,
    Bytes {
        all: Box<[u8]>,
        written: usize,
    },
    Pipe(Pipe),
}

impl Direction {
    /// Nothing has moved yet.
    pub(super) fn new(splice: bool) -> Self {
        Self { only_copies: !splice, ..Self::default() }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<Ending> {
        self.ended
    }

    /// Takes what has arrived at `from` already, before there is anybody to
    /// pass it on to.
    ///
    /// # Errors
    /// `from` is lost already.
    pub(super) fn read_ahead(&mut self, from: &TcpStream) -> io::Result<()> {
        COPY_BUFFER.with_borrow_mut(|buffer| {
            // Not by tokio, which does not know yet that a new socket is readable.
            match rustix::net::recv(from, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => self.has_eof = true,
                Ok((read, _)) => self.carried = Carried::Bytes { all: buffer[..read].into(), written: 0 },
                Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
    }

    /// Something is to be passed on.
    pub(super) fn has_read(&self) -> bool {
        !self.carried.is_nothing()
    }

    /// Bytes passed on so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes were passed on by somebody else.
    pub(super) fn add_moved(&mut self, moved: u64) {
        self.moved += moved;
    }

    /// Reads since the last one that was bulk; `None`: nobody else could go on
    /// from here, since something is carried, or not to be found by others.
    pub(super) fn small_reads(&self) -> Option<u32> {
        (self.is_reading() && !self.has_eof && self.mapped.is_none()).then_some(self.small_reads)
    }

    /// Goes on after somebody else did; `mapped`, if what comes from `from`
    /// can only be received.
    pub(super) fn resume(&mut self, mapped: Option<Mapped>) {
        self.small_reads = 0;
        self.mapped = mapped;
    }

    /// What somebody else was to write is lost, and so is the other side.
    pub(super) fn give_up(&mut self) {
        self.end(Ending::Broken);
    }

    /// Nothing stands in the way of reading, so an error of `from` is noticed.
    pub(super) fn is_reading(&self) -> bool {
        self.ended.is_none() && self.carried.is_nothing()
    }

    /// Moves what can be moved now. EOF is passed on as FIN, unless the other
    /// direction has ended: then the socket is about to be closed anyway.
    ///
    /// A read error ends the relay: all that came before it has been passed
    /// on. A write error ends only this direction (`Broken`), so that what `to`
    /// had sent before it went away still gets through.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Side<'_>,
        to: &mut Side<'_>,
        other_has_ended: bool,
        count: &impl Fn(u64),
    ) -> Poll<io::Result<Ending>> {
        if let Some(ended) = self.ended {
            return Poll::Ready(Ok(ended));
        }
        let turn_ends = self.moved + TURN_BYTES;
        while self.moved < turn_ends {
            match ready!(self.poll_write(context, to.stream, count)) {
                Ok(()) => {}
                Err(error) => return Poll::Ready(Ok(self.lose(to, &error))),
            }
            if self.has_eof {
                let told =
                    if other_has_ended { Ok(()) } else { SockRef::from(to.stream).shutdown(Shutdown::Write) };
                return Poll::Ready(Ok(match told {
                    Ok(()) => self.end(Ending::Clean),
                    Err(error) => self.lose(to, &error),
                }));
            }
            ready!(from.stream.poll_read_ready(context))?;
            match self.read(from.stream, to.stream) {
                Ok(Taken { read: 0, .. }) if from.is_lost => {
                    return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
                }
                Ok(Taken { read: 0, .. }) if self.is_early()? => break,
                Ok(Taken { read, written }) => {
                    self.has_eof = read == 0;
                    self.count(written, count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Some(mapped) = &self.mapped
                        && mapped.release(from.stream)?
                    {
                        self.mapped = None;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes all that is carried.
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        to: &TcpStream,
        count: &impl Fn(u64),
    ) -> Poll<io::Result<()>> {
        while !self.carried.is_nothing() {
            let written = if self.is_blocked {
                ready!(to.poll_write_ready(context))?;
                to.try_io(Interest::WRITABLE, || self.carried.write(to))
            } else {
                // Not by tokio, which does not know yet that a new socket is writable.
                self.carried.write(to)
            };
            match written {
                Ok(written) => {
                    self.is_blocked = false;
                    self.count(written, count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_blocked = true,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once. Nothing may be carried.
    fn read(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<Taken> {
        if let Some(read) = self.splice(from)? {
            return Ok(Taken { read, written: 0 });
        }
        COPY_BUFFER.with_borrow_mut(|buffer| {
            let read = receive(from, buffer, self.mapped.as_mut())?;
            self.is_bulk = read == buffer.len();
            self.small_reads = if self.is_bulk { 0 } else { self.small_reads.saturating_add(1) };
            let written = if read == 0 { Ok(0) } else { send(to, &buffer[..read]) };
            // An error comes again with the next try, which knows what it means.
            self.is_blocked = matches!(&written, Err(error) if error.kind() == ErrorKind::WouldBlock);
            let written = written.unwrap_or(0);
            if written < read {
                self.carried = Carried::Bytes { all: buffer[written..read].into(), written: 0 };
            }
            Ok(Taken { read, written })
        })
    }

    /// Fills a pipe, if the last read was bulk. `None`: splice(2) moved nothing,
    /// be it for lack of data, at the end, or because of urgent data, which it
    /// stops at and never passes. Only recv(2) tells these apart, so it decides.
    fn splice(&mut self, from: &TcpStream) -> io::Result<Option<usize>> {
        if !self.is_bulk || self.only_copies || self.mapped.is_some() {
            return Ok(None);
        }
        let Some(mut pipe) = Pipe::lease() else { return Ok(None) };
        // Not by tokio, which would take `WouldBlock` for the last word.
        match pipe.fill(from) {
            Ok(0) => Ok(None),
            Ok(read) => {
                self.is_bulk = read >= COPY_BYTES;
                self.small_reads = 0;
                self.carried = Carried::Pipe(pipe);
                Ok(Some(read))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// EOF came before bytes that the kernel still has: another turn.
    fn is_early(&mut self) -> io::Result<bool> {
        self.mapped.as_mut().map_or(Ok(false), Mapped::is_early)
    }

    fn count(&mut self, written: usize, count: &impl Fn(u64)) {
        if written > 0 {
            self.moved += written as u64;
            count(written as u64);
        }
    }

    fn end(&mut self, ending: Ending) -> Ending {
        self.carried = Carried::Nothing;
        self.ended = Some(ending);
        ending
    }

    fn lose(&mut self, to: &mut Side<'_>, error: &io::Error) -> Ending {
        tracing::debug!(%error, "one direction of a connection broken");
        to.is_lost = true;
        self.end(Ending::Broken)
    }
}

/// Bytes of one read, and how many of them were written at once.
struct Taken {
    read: usize,
    written: usize,
}

impl Carried {
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Writes once; becomes `Nothing` with the last byte.
    fn write(&mut self, to: &TcpStream) -> io::Result<usize> {
        let (moved, is_empty) = match self {
            Self::Nothing => return Ok(0),
            Self::Bytes { all, written } => {
                let moved = send(to, &all[*written..])?;
                *written += moved;
                (moved, *written == all.len())
            }
            Self::Pipe(pipe) => {
                let moved = pipe.drain(to)?;
                (moved, pipe.level() == 0)
            }
        };
        if is_empty {
            *self = Self::Nothing;
        }
        Ok(moved)
    }
}

/// Receives once. If that has emptied the socket, tokio is told so, which
/// saves the call that would only find out (epoll(7), Q9: a short read). As in
/// all of tokio, an urgent byte that is not the first one of a read, and what
/// comes after it, then waits for the peer's next segment or its end.
fn receive(from: &TcpStream, buffer: &mut [u8], mapped: Option<&mut Mapped>) -> io::Result<usize> {
    let mut read = 0;
    let told = from.try_io(Interest::READABLE, || {
        (read, _) = rustix::net::recv(from, &mut *buffer, RecvFlags::empty())?;
        // The kernel's own words are needed to know when `mapped` can be released.
        let is_empty = 0 < read && read < buffer.len() && mapped.is_none();
        if is_empty { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if let Some(mapped) = mapped {
        mapped.count(read);
    }
    match told {
        Err(error) if read == 0 => Err(error),
        _ => Ok(read),
    }
}

fn send(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(to, bytes, SendFlags::NOSIGNAL)?)
}
