// SPDX-License-Identifier: Apache-2.0
//! How the kernel's program is taken off one socket, without a byte lost.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use llb_common::sockmap::Stream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::SockmapError;
use super::maps::Maps;
use super::quiet::Quiet;

/// The socket that a stream comes from.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) cookie: u64,
}

impl Source {
    /// Takes the program off, unless it has left bytes to the agent that are not among
    /// the `read` ones yet, or the socket is not established any more: false.
    ///
    /// # Errors
    /// Bytes are missing, and none behind them has been read; or the program can't be put back.
    pub(super) fn leave(
        self,
        maps: &Maps,
        socket: &(impl AsFd + AsRawFd),
        read: u64,
    ) -> Result<bool, SockmapError> {
        let hold = Hold::take(maps, self.cookie, socket);
        let Some(taken) = hold.taken().filter(|_| !self.has_more(maps, read)) else { return Ok(false) };
        let quiet = Quiet::take(socket, taken);
        maps.deactivate(self.cookie);
        drop(quiet);
        let given = self.stream(maps).given(read);
        if hold.taken().is_some_and(|taken| taken != given) {
            return Err(SockmapError::Torn);
        }
        if !self.has_more(maps, read) {
            return Ok(true);
        }
        // It was left in the last moment.
        maps.activate(self.cookie, socket)?;
        kick(socket)?;
        Ok(false)
    }

    /// Not all was read that was left to the agent.
    pub(super) fn has_more(self, maps: &Maps, read: u64) -> bool {
        self.stream(maps).passed != read
    }

    pub(super) fn stream(self, maps: &Maps) -> Stream {
        maps.stream(self.cookie).unwrap_or_default()
    }
}

/// Marks a key of `TARGETS` whose socket gets nothing. The kernel counts
/// cookies up from 1.
const HOLD: u64 = 1 << 63;

/// One more entry of a socket. It keeps what is in the socket's queues while
/// it is out of the other map; and making it waits for segments that are just
/// being looked at, after which a socket that is not established gets no more.
struct Hold<'a> {
    maps: &'a Maps,
    key: u64,
    /// The kernel takes no other.
    is_established: bool,
}

impl<'a> Hold<'a> {
    fn take(maps: &'a Maps, cookie: u64, socket: &impl AsRawFd) -> Self {
        let key = cookie | HOLD;
        Self { maps, key, is_established: maps.set_target(key, socket).is_ok() }
    }

    /// `copied_seq` of the socket; `None`: it is not established, or gone.
    fn taken(&self) -> Option<u32> {
        let answer = self.is_established.then(|| self.maps.ask(self.key))?;
        answer.map(|answer| answer.copied_seq)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if self.is_established {
            self.maps.forget(self.key);
        }
    }
}

/// What waits in the socket since before it was active is looked at now: the
/// kernel does that when it is asked to receive. Nothing is taken. Whether
/// something is left that the program has not taken.
///
/// # Errors
/// That of the socket, which the kernel tells once.
pub(super) fn kick(socket: impl AsFd) -> io::Result<bool> {
    match recv(socket, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((length, _)) => Ok(length > 0),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
