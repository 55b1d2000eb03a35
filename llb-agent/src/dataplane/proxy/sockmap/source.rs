// SPDX-License-Identifier: Apache-2.0
//! The socket that a stream comes from, and how the program is taken off it
//! without losing a byte.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use llb_common::sockmap::Stream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::error::SockmapError;
use super::maps::Maps;
use super::quiesce::Quiesced;

/// The socket that a stream comes from.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) cookie: u64,
}

impl Source {
    /// Takes the program off the socket. False: the program stays, because it has
    /// left bytes to the agent beyond the `read` ones, or because the socket is no
    /// longer established.
    ///
    /// # Errors
    /// Bytes were lost, and none after them has been read; or the program can't be
    /// put back.
    pub(super) fn try_deactivate(
        self,
        maps: &Maps,
        socket: &(impl AsFd + AsRawFd),
        read: u64,
    ) -> Result<bool, SockmapError> {
        let hold = Hold::take(maps, self.cookie, socket);
        let Some(taken) = hold.taken().filter(|_| !self.has_more(maps, read)) else { return Ok(false) };
        let quiesced = Quiesced::new(socket, taken);
        maps.deactivate(self.cookie);
        drop(quiesced);
        let given = self.stream(maps).given(read);
        if hold.taken().is_some_and(|taken| taken != given) {
            return Err(SockmapError::BytesLost);
        }
        if !self.has_more(maps, read) {
            return Ok(true);
        }
        // Bytes were left to the agent at the last moment.
        maps.activate(self.cookie, socket)?;
        peek(socket)?;
        Ok(false)
    }

    /// Whether the program has left bytes to the agent beyond the `read` ones.
    fn has_more(self, maps: &Maps, read: u64) -> bool {
        self.stream(maps).passed != read
    }

    pub(super) fn stream(self, maps: &Maps) -> Stream {
        maps.stream(self.cookie).unwrap_or_default()
    }
}

/// Marks a key of `TARGETS` whose socket gets no bytes. The kernel counts cookies
/// up from 1, so no socket has such a cookie.
const HOLD: u64 = 1 << 63;

/// A second map entry of a socket, until dropped. It keeps what is in the
/// socket's queues while the socket is out of `ACTIVE`. Adding it also waits for
/// segments that the program is looking at; if the socket is no longer
/// established then, it gets no more segments.
struct Hold<'a> {
    maps: &'a Maps,
    key: u64,
    /// The kernel adds only established sockets.
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

/// Whether bytes wait in the socket that the program has not taken. Asking makes
/// the kernel run the program on bytes that arrived before the socket was active.
///
/// # Errors
/// The socket's error, which the kernel reports once.
pub(super) fn peek(socket: impl AsFd) -> io::Result<bool> {
    match recv(socket, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((length, _)) => Ok(length > 0),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
