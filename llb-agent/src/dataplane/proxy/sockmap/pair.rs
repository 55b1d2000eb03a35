// SPDX-License-Identifier: Apache-2.0
//! Two sockets in the maps: how they get in, and how they come out without a
//! byte lost. Calls that do not wait; when they are made is in `carry.rs`.
//!
//! ```text
//!   form            targets: both; streams: both, from the targets' write_seq
//!   begin           active: both; whatever waits in them is looked at now
//!     ... the kernel moves bytes ...
//!   stop            active: out again, but for a stream that has switched or ended:
//!     |             its bytes are the agent's already, but lie where only
//!     |             recv(2) finds them (`mapped.rs`)
//!   queued == 0     the kernel's worker has written all that was redirected
//!   is_whole        what was taken from the sockets is what was redirected
//!   drop            out of all maps: plain sockets
//! ```
//!
//! Only a socket that is in no map at all forgets what is in its queues, so it
//! leaves the last one when they are empty. The program is taken away while it
//! is not run (`quiet.rs`). Should a segment be dropped by that nevertheless,
//! `is_whole` notices.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use llb_common::sockmap::Stream;
use rustix::net::sockopt::socket_cookie;

use super::SockmapError;
use super::leave::{Source, kick};
use super::mapped::Mapped;
use super::maps::Maps;

/// A pair of which the kernel moves the bytes.
pub(in super::super) struct Pair {
    maps: Arc<Maps>,
    /// Stream 0 comes from socket 0.
    sources: [Source; 2],
    /// Streams that have switched, and belong to a [`Mapped`] by now.
    are_mapped: [bool; 2],
    /// Bytes that were asked for by `moved` before.
    counted: [u64; 2],
}

impl Pair {
    /// Makes everything ready; nothing moves yet.
    ///
    /// # Errors
    /// A map is full, or a socket is not established; nothing has happened then.
    pub(super) fn form(maps: &Arc<Maps>, sockets: [&TcpStream; 2]) -> Result<Self, SockmapError> {
        let cookies = [socket_cookie(sockets[0])?, socket_cookie(sockets[1])?];
        let sources = cookies.map(|cookie| Source { cookie });
        let pair = Self { maps: Arc::clone(maps), sources, are_mapped: [false; 2], counted: [0; 2] };
        maps.set_target(cookies[0], sockets[1])?;
        maps.set_target(cookies[1], sockets[0])?;
        let ask = |cookie| maps.ask(cookie).ok_or(SockmapError::NoAnswer);
        // Each is asked for the socket that gets its bytes.
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
    /// A socket is not established any more. The other may be active: the pair
    /// has to be stopped like any other.
    pub(super) fn begin(&self, sockets: [&TcpStream; 2]) -> Result<(), SockmapError> {
        for (source, socket) in self.sources.iter().zip(sockets) {
            self.maps.activate(source.cookie, socket)?;
        }
        sockets.into_iter().try_for_each(|socket| kick(socket).map(|_| ()))?;
        Ok(())
    }

    /// The keys of its streams.
    pub(super) fn cookies(&self) -> [u64; 2] {
        self.sources.map(|source| source.cookie)
    }

    /// Bytes that were redirected since this was asked before.
    pub(super) fn moved(&mut self) -> [u64; 2] {
        let redirected = self.cookies().map(|cookie| self.stream(cookie).redirected);
        let since = [0, 1].map(|number| redirected[number].saturating_sub(self.counted[number]));
        self.counted = redirected;
        since
    }

    /// So many bytes were redirected from socket 0.
    pub(super) fn moved_all(&self, bytes: usize) -> bool {
        self.stream(self.sources[0].cookie).redirected == bytes as u64
    }

    /// Ends redirecting. What comes from here on stays in the sockets, or in
    /// the hands of a [`Mapped`] for a stream that has switched or ended.
    ///
    /// # Errors
    /// Bytes are missing, or a stream can be neither stopped nor left as it is.
    pub(super) fn stop(&mut self, sockets: [&TcpStream; 2]) -> Result<[Option<Mapped>; 2], SockmapError> {
        let mut mapped = [None, None];
        for (number, socket) in sockets.into_iter().enumerate() {
            let source = self.sources[number];
            // One that has had FIN stays too: it gets no more, and could not be
            // held while it leaves.
            if !source.leave(&self.maps, socket, 0)? {
                self.are_mapped[number] = true;
                mapped[number] = Some(Mapped::new(Arc::clone(&self.maps), source));
            }
        }
        Ok(mapped)
    }

    /// Something waits that the program, if it were there, had taken.
    ///
    /// # Errors
    /// That of a socket.
    pub(super) fn is_stalled(&self, sockets: [&TcpStream; 2]) -> io::Result<bool> {
        let mut is_stalled = false;
        for socket in sockets {
            is_stalled |= kick(socket)?;
        }
        Ok(is_stalled && !self.has_switched())
    }

    /// One of the streams was left to us by the program.
    pub(super) fn has_switched(&self) -> bool {
        self.cookies().iter().any(|&cookie| self.stream(cookie).switch != 0)
    }

    /// Bytes of a stream that wait for the kernel's worker. `None`: the socket
    /// that should get them is gone.
    pub(super) fn queued(&self, number: usize) -> Option<u32> {
        let cookie = self.sources[number].cookie;
        let answer = self.maps.ask(cookie)?;
        Some(self.stream(cookie).queued(answer.write_seq))
    }

    /// Everything that was taken from the sockets of stopped streams was
    /// redirected. Else somebody has taken the program away under it.
    pub(super) fn is_whole(&self) -> bool {
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
