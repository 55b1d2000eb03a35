// SPDX-License-Identifier: Apache-2.0
//! One direction of a connection: moves bytes from one socket to the other until
//! FIN has been passed on. Small pieces are copied, bulk data goes through
//! splice(2). Two directions are a relay (`relay.rs`).

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use rustix::net::RecvFlags;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pipe::Pipe;
use super::sockmap::{Mapped, ReturnedStream};
use super::unwritten::{Unwritten, send};

/// The most that one read takes. A read that fills it counts as bulk. Each
/// worker has one such buffer for all its connections: what is read is written
/// at once, and only what the target does not take is copied to memory of its
/// own. 16 KiB is one TLS record.
pub(super) const COPY_BYTES: usize = 16 * 1024;

/// What one direction moves before it lets other connections of the worker run.
const POLL_BUDGET_BYTES: u64 = 1024 * 1024;

thread_local! {
    static COPY_BUFFER: RefCell<[u8; COPY_BYTES]> = const { RefCell::new([0; COPY_BYTES]) };
}

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// FIN was passed on, after all bytes before it.
    Clean,
    /// The target could not be written to.
    Broken,
}

/// One of the two sockets, and what is known of it.
#[derive(Debug)]
pub(super) struct Side<'a> {
    pub(super) stream: &'a TcpStream,
    /// A write failed. The kernel reports an error only once, so afterwards a
    /// read of a reset socket returns EOF.
    is_lost: bool,
}

impl<'a> Side<'a> {
    pub(super) fn new(stream: &'a TcpStream) -> Self {
        Self { stream, is_lost: false }
    }
}

/// The state of one direction. `from` and `to` below are its two sockets.
#[derive(Debug, Default)]
pub(super) struct Direction {
    unwritten: Unwritten,
    /// `to` took less than was offered, and is not known to take more yet.
    is_blocked: bool,
    /// The last read filled its buffer.
    is_bulk: bool,
    has_eof: bool,
    ended: Option<Ending>,
    /// Bytes written.
    moved: u64,
    /// Bulk data is copied, not spliced.
    only_copies: bool,
    /// Reads since the last bulk read.
    small_reads: u32,
    /// Set while `from` is still in the kernel's socket maps.
    mapped: Option<Mapped>,
}

impl Direction {
    /// Nothing has moved yet.
    pub(super) fn new(splice: bool) -> Self {
        Self { only_copies: !splice, ..Self::default() }
    }

    /// How it ended, if it has ended.
    pub(super) fn ended(&self) -> Option<Ending> {
        self.ended
    }

    /// Reads what has arrived at `from` already, before `to` is connected.
    ///
    /// # Errors
    /// `from` is lost already.
    pub(super) fn read_ahead(&mut self, from: &TcpStream) -> io::Result<()> {
        COPY_BUFFER.with_borrow_mut(|buffer| {
            // Not through tokio, which does not know yet that a new socket is readable.
            match rustix::net::recv(from, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => self.has_eof = true,
                Ok((read, _)) => self.unwritten = Unwritten::copy_of(&buffer[..read]),
                Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
    }

    /// Whether something was read and is not written yet.
    pub(super) fn has_read(&self) -> bool {
        !self.unwritten.is_nothing()
    }

    /// Bytes written so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Reads since the last bulk read. `None`: the kernel can't move the bytes
    /// of this direction now, because something is unwritten, FIN was read, or
    /// `from` is still in the socket maps.
    pub(super) fn small_reads(&self) -> Option<u32> {
        (self.is_reading() && !self.has_eof && self.mapped.is_none()).then_some(self.small_reads)
    }

    /// Goes on in user space after the kernel has moved bytes.
    pub(super) fn resume(&mut self, returned: ReturnedStream) {
        self.small_reads = 0;
        self.moved += returned.moved;
        self.mapped = returned.mapped;
        if returned.is_lost {
            self.end(Ending::Broken);
        }
    }

    /// Whether the next step is a read, which reports errors of `from`.
    pub(super) fn is_reading(&self) -> bool {
        self.ended.is_none() && self.unwritten.is_nothing()
    }

    /// Moves what can be moved now. EOF is passed on as FIN, unless the other
    /// direction has ended: then the socket is closed soon anyway.
    ///
    /// A read error ends the whole relay: everything before it has been passed
    /// on. A write error ends only this direction (`Broken`), so that what `to`
    /// sent before it went away still gets through.
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
        let budget_ends = self.moved + POLL_BUDGET_BYTES;
        while self.moved < budget_ends {
            match ready!(self.poll_write(context, to.stream, count)) {
                Ok(()) => {}
                Err(error) => return Poll::Ready(Ok(self.lose(to, &error))),
            }
            if self.has_eof {
                return Poll::Ready(Ok(self.pass_on_fin(to, other_has_ended)));
            }
            ready!(from.stream.poll_read_ready(context))?;
            match self.read(from.stream, to.stream) {
                Ok(Taken { read: 0, .. }) if from.is_lost => {
                    return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
                }
                Ok(Taken { read: 0, .. }) if self.has_more_before_fin()? => break,
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

    fn pass_on_fin(&mut self, to: &mut Side<'_>, other_has_ended: bool) -> Ending {
        if !other_has_ended && let Err(error) = SockRef::from(to.stream).shutdown(Shutdown::Write) {
            return self.lose(to, &error);
        }
        self.end(Ending::Clean)
    }

    /// Writes all that is unwritten.
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        to: &TcpStream,
        count: &impl Fn(u64),
    ) -> Poll<io::Result<()>> {
        while !self.unwritten.is_nothing() {
            let written = if self.is_blocked {
                ready!(to.poll_write_ready(context))?;
                to.try_io(Interest::WRITABLE, || self.unwritten.write(to))
            } else {
                // Not through tokio, which does not know yet that a new socket is writable.
                self.unwritten.write(to)
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

    /// Reads once, and writes what `to` takes at once. Nothing may be unwritten.
    fn read(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<Taken> {
        if let Some(read) = self.splice(from)? {
            return Ok(Taken { read, written: 0 });
        }
        COPY_BUFFER.with_borrow_mut(|buffer| {
            let read = receive(from, buffer, self.mapped.as_mut())?;
            self.is_bulk = read == buffer.len();
            self.small_reads = if self.is_bulk { 0 } else { self.small_reads.saturating_add(1) };
            let written = if read == 0 { Ok(0) } else { send(to, &buffer[..read]) };
            // The next write meets any other error again and handles it.
            self.is_blocked = matches!(&written, Err(error) if error.kind() == ErrorKind::WouldBlock);
            let written = written.unwrap_or(0);
            if written < read {
                self.unwritten = Unwritten::copy_of(&buffer[written..read]);
            }
            Ok(Taken { read, written })
        })
    }

    /// Fills a pipe if the last read was bulk. `None`: splice(2) moved nothing,
    /// because there is no data, at EOF, or at urgent data, which it never
    /// passes. Only recv(2) tells these apart, so it must be called next.
    fn splice(&mut self, from: &TcpStream) -> io::Result<Option<usize>> {
        if !self.is_bulk || self.only_copies || self.mapped.is_some() {
            return Ok(None);
        }
        let Some(mut pipe) = Pipe::lease() else { return Ok(None) };
        // Not through tokio: `WouldBlock` would clear the readiness, and recv(2) would not be tried.
        match pipe.fill(from) {
            Ok(0) => Ok(None),
            Ok(read) => {
                self.is_bulk = read >= COPY_BYTES;
                self.small_reads = 0;
                self.unwritten = Unwritten::Pipe(pipe);
                Ok(Some(read))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// After EOF: whether the kernel has bytes that belong before it.
    fn has_more_before_fin(&mut self) -> io::Result<bool> {
        self.mapped.as_mut().map_or(Ok(false), Mapped::has_more_before_fin)
    }

    fn count(&mut self, written: usize, count: &impl Fn(u64)) {
        if written > 0 {
            self.moved += written as u64;
            count(written as u64);
        }
    }

    fn end(&mut self, ending: Ending) -> Ending {
        self.unwritten = Unwritten::Nothing;
        self.ended = Some(ending);
        ending
    }

    fn lose(&mut self, to: &mut Side<'_>, error: &io::Error) -> Ending {
        tracing::debug!(%error, "cannot write; one direction of a connection has ended");
        to.is_lost = true;
        self.end(Ending::Broken)
    }
}

/// Bytes of one read, and how many of them were written at once.
struct Taken {
    read: usize,
    written: usize,
}

/// Receives once. A short read has emptied the socket (epoll(7), Q9), so tokio is
/// told to wait, which saves the call that would find nothing. As everywhere in
/// tokio, an urgent byte inside a read, and what follows it, then waits for the
/// peer's next segment or FIN.
fn receive(from: &TcpStream, buffer: &mut [u8], mapped: Option<&mut Mapped>) -> io::Result<usize> {
    let mut read = 0;
    let outcome = from.try_io(Interest::READABLE, || {
        (read, _) = rustix::net::recv(from, &mut *buffer, RecvFlags::empty())?;
        // `mapped` can be released only after the kernel itself has said `WouldBlock`.
        let is_empty = 0 < read && read < buffer.len() && mapped.is_none();
        if is_empty { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if let Some(mapped) = mapped {
        mapped.count(read);
    }
    match outcome {
        Err(error) if read == 0 => Err(error),
        _ => Ok(read),
    }
}
