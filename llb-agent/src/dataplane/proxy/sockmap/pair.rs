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

use llb_common::sockmap::Stream;
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
}

impl Pair {
    /// Prepares both streams; nothing moves yet.
    ///
    /// # Errors
    /// A map is full, or a socket is not established. Nothing has changed then.
    pub(super) fn form(maps: &Arc<Maps>, sockets: [&TcpStream; 2]) -> Result<Self, SockmapError> {
        let cookies = [socket_cookie(sockets[0])?, socket_cookie(sockets[1])?];
        let sources = cookies.map(|cookie| Source { cookie });
        let pair = Self { maps: Arc::clone(maps), sources, are_mapped: [false; 2], counted: [0; 2] };
        maps.set_target(cookies[0], sockets[1])?;
        maps.set_target(cookies[1], sockets[0])?;
        let ask = |cookie| maps.ask(cookie).ok_or(SockmapError::NotInMap);
        // `ask` answers for the socket that gets the bytes of the given one.
        let targets = [ask(cookies[0])?, ask(cookies[1])?];
        for (number, cookie) in cookies.into_iter().enumerate() {
            let stream = Stream::new(targets[number].write_seq, targets[1 - number].copied_seq);
            maps.set_stream(cookie, stream)?;
        }
        Ok(pair)
    }

    /// The kernel moves bytes from here on.
    ///
    /// # Errors
    /// A socket is no longer established. The other may be active, so the pair
    /// must be stopped like any other.
    pub(super) fn begin(&self, sockets: [&TcpStream; 2]) -> Result<(), SockmapError> {
        for (source, socket) in self.sources.iter().zip(sockets) {
            self.maps.activate(source.cookie, socket)?;
        }
        sockets.into_iter().try_for_each(|socket| peek(socket).map(|_| ()))?;
        Ok(())
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
        let cookie = self.sources[number].cookie;
        let answer = self.maps.ask(cookie)?;
        Some(self.stream(cookie).queued(answer.write_seq))
    }

    /// Whether everything that was taken from the sockets of stopped streams was
    /// redirected. Otherwise the kernel has dropped a segment.
    pub(super) fn is_complete(&self) -> bool {
        (0..2).filter(|&number| !self.are_mapped[number]).all(|number| {
            let taken = self.maps.ask(self.sources[1 - number].cookie).map(|answer| answer.copied_seq);
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
        for (source, _) in self.sources.iter().zip(self.are_mapped).filter(|(_, is_mapped)| !is_mapped) {
            self.maps.forget(source.cookie);
        }
    }
}
