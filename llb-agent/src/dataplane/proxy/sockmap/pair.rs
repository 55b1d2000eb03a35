// SPDX-License-Identifier: Apache-2.0
//! Puts two sockets into the maps, and takes them out without losing a byte.
//! None of these calls waits; `redirect.rs` decides when they are made.
//!
//! ```text
//!   form            TARGETS: both; STREAMS: both, from the targets' write_seq
//!   begin           ACTIVE: both; the program sees what waits in them now
//!     ... the kernel moves bytes ...
//!   stop            ACTIVE: both out again, except for a stream that has switched
//!     |             or ended: the agent has its bytes already, but they are where
//!     |             only recv(2) finds them (`mapped.rs`)
//!   queued == 0     the kernel's worker has written all that was redirected
//!   is_complete     what was taken from the sockets is what was redirected
//!   drop            out of all maps: ordinary sockets
//! ```
//!
//! A socket that leaves its last map drops what is in its queues, so it leaves
//! only when they are empty. The program is taken off while it is not run
//! (`quiesce.rs`). If a segment is dropped nevertheless, `is_complete` notices.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use llb_common::sockmap::{Join, Stream, Switch};
use rustix::net::sockopt::socket_cookie;

use super::error::SockmapError;
use super::mapped::Mapped;
use super::maps::Maps;
use super::source::{Source, peek};

/// A pair whose bytes the kernel moves.
pub(super) struct Pair {
    maps: Arc<Maps>,
    /// Stream 0 comes from socket 0, stream 1 from socket 1.
    sources: [Source; 2],
    /// Streams that belong to a [`Mapped`] by now.
    are_mapped: [bool; 2],
    /// Redirected bytes that `moved` has returned already.
    counted: [u64; 2],
    /// Redirected bytes before this pair was joined.
    before: [u64; 2],
    /// Of sockets that the register program has added, while they may be joined.
    registered: Option<[Mapped; 2]>,
}

impl Pair {
    /// Prepares both streams; nothing moves yet.
    ///
    /// # Errors
    /// A map is full, or a socket is not established. Nothing has changed then.
    pub(super) fn form(maps: &Arc<Maps>, sockets: [&TcpStream; 2]) -> Result<Self, SockmapError> {
        let cookies = [socket_cookie(sockets[0])?, socket_cookie(sockets[1])?];
        let sources = cookies.map(|cookie| Source { cookie });
        let pair = Self {
            maps: Arc::clone(maps),
            sources,
            are_mapped: [false; 2],
            counted: [0; 2],
            before: [0; 2],
            registered: None,
        };
        maps.set_target(cookies[0], sockets[0])?;
        maps.set_target(cookies[1], sockets[1])?;
        let ask = |cookie| maps.ask(cookie).ok_or(SockmapError::NotInMap);
        let states = [ask(cookies[0])?, ask(cookies[1])?];
        for (number, cookie) in cookies.into_iter().enumerate() {
            let (from, to) = (states[number], states[1 - number]);
            maps.set_stream(cookie, Stream::new(cookies[1 - number], to.write_seq, from.copied_seq))?;
        }
        Ok(pair)
    }

    /// A pair of sockets that the register program has added. Nothing moves yet.
    pub(super) fn of_registered(maps: &Arc<Maps>, registered: [Mapped; 2]) -> Self {
        let before = [registered[0].redirected, registered[1].redirected];
        Self {
            maps: Arc::clone(maps),
            sources: [registered[0].source(), registered[1].source()],
            are_mapped: [true; 2],
            counted: before,
            before,
            registered: Some(registered),
        }
    }

    /// The kernel moves bytes from here on.
    ///
    /// # Errors
    /// A socket is no longer established. The other may be active, so the pair
    /// must be stopped like any other.
    pub(super) fn begin(&self, sockets: [&TcpStream; 2]) -> Result<(), SockmapError> {
        if let Some(registered) = &self.registered {
            return self.join(registered);
        }
        for (source, socket) in self.sources.iter().zip(sockets) {
            self.maps.activate(source.cookie, socket)?;
        }
        sockets.into_iter().try_for_each(|socket| peek(socket).map(|_| ()))?;
        Ok(())
    }

    fn join(&self, registered: &[Mapped; 2]) -> Result<(), SockmapError> {
        let cookies = self.cookies();
        for (number, cookie) in cookies.into_iter().enumerate() {
            self.maps.join(cookie, Join::new(cookies[1 - number], registered[number].read()))?;
        }
        // What came before is for the relay. What comes from here on, the program knows.
        let is_read = |number: usize| self.stream(cookies[number]).passed == registered[number].read();
        if is_read(0) && is_read(1) { Ok(()) } else { Err(SockmapError::Unread) }
    }

    /// The keys of the two streams.
    pub(super) fn cookies(&self) -> [u64; 2] {
        self.sources.map(|source| source.cookie)
    }

    /// Bytes that were redirected since the last call.
    pub(super) fn moved(&mut self) -> [u64; 2] {
        let redirected = self.cookies().map(|cookie| self.stream(cookie).redirected);
        let since = [0, 1].map(|number| redirected[number].saturating_sub(self.counted[number]));
        self.counted = redirected;
        since
    }

    /// Whether exactly `bytes` were redirected from socket 0.
    pub(super) fn has_moved(&self, bytes: usize) -> bool {
        self.stream(self.sources[0].cookie).redirected == bytes as u64
    }

    /// Stops redirecting. What arrives from here on stays in the sockets; for a
    /// stream that has switched or ended, it is read through a [`Mapped`].
    ///
    /// # Errors
    /// Bytes were lost, or a stream can neither be stopped nor go on.
    pub(super) fn stop(&mut self, sockets: [&TcpStream; 2]) -> Result<[Option<Mapped>; 2], SockmapError> {
        if let Some(registered) = self.registered.take() {
            return self.unjoin(registered, sockets);
        }
        let mut mapped = [None, None];
        for (number, socket) in sockets.into_iter().enumerate() {
            let source = self.sources[number];
            // A socket that has received FIN stays in the maps too: it gets no more
            // bytes, and `Hold` would not work for it.
            if !source.try_deactivate(&self.maps, socket, 0)? {
                self.are_mapped[number] = true;
                mapped[number] = Some(Mapped::new(Arc::clone(&self.maps), source));
            }
        }
        Ok(mapped)
    }

    fn unjoin(
        &self,
        mut registered: [Mapped; 2],
        sockets: [&TcpStream; 2],
    ) -> Result<[Option<Mapped>; 2], SockmapError> {
        self.cookies().into_iter().for_each(|cookie| self.maps.unjoin(cookie));
        for (mapped, socket) in registered.iter_mut().zip(sockets) {
            // Any call that locks the socket waits for a segment that the program is looking at.
            rustix::io::ioctl_fionread(socket)?;
            let stream = self.stream(mapped.source().cookie);
            match stream.switch {
                0 => {}
                switch if switch == Switch::Torn as u32 => return Err(SockmapError::BytesLost),
                _ => mapped.leave(),
            }
            mapped.redirected = stream.redirected;
        }
        Ok(registered.map(Some))
    }

    /// Whether bytes wait that the program should have taken.
    ///
    /// # Errors
    /// A socket has an error.
    pub(super) fn is_stalled(&self, sockets: [&TcpStream; 2]) -> io::Result<bool> {
        let mut is_stalled = false;
        for socket in sockets {
            is_stalled |= peek(socket)?;
        }
        Ok(is_stalled && !self.has_switched())
    }

    /// Whether the program has left one of the streams to the agent.
    pub(super) fn has_switched(&self) -> bool {
        self.cookies().iter().any(|&cookie| self.stream(cookie).switch != 0)
    }

    /// Redirected bytes of a stream that the kernel's worker has not written yet.
    /// `None`: the socket that should get them is gone.
    pub(super) fn queued(&self, number: usize) -> Option<u32> {
        let stream = self.stream(self.sources[number].cookie);
        if stream.registered == 1 && stream.redirected == self.before[number] {
            // The program has not noted yet where the join begins.
            return Some(0);
        }
        let answer = self.maps.ask(self.sources[1 - number].cookie)?;
        Some(stream.queued(answer.write_seq))
    }

    /// Whether everything that was taken from the sockets of stopped streams was
    /// redirected. Otherwise the kernel has dropped a segment.
    pub(super) fn is_complete(&self) -> bool {
        (0..2).filter(|&number| !self.are_mapped[number]).all(|number| {
            let taken = self.maps.ask(self.sources[number].cookie).map(|answer| answer.copied_seq);
            let given = self.sources[number].stream(&self.maps).given(0);
            taken.is_none_or(|taken| taken == given)
        })
    }

    fn stream(&self, cookie: u64) -> Stream {
        self.maps.stream(cookie).unwrap_or_default()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if self.registered.is_some() {
            self.cookies().into_iter().for_each(|cookie| self.maps.unjoin(cookie));
        }
        for (source, _) in self.sources.iter().zip(self.are_mapped).filter(|(_, is_mapped)| !is_mapped) {
            self.maps.forget(source.cookie);
        }
    }
}
