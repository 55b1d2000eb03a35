// SPDX-License-Identifier: Apache-2.0
//! A stream that the relay reads while its socket is still in the maps. Its bytes
//! are where recv(2) finds them and splice(2) does not. As soon as all of them
//! are read, the socket can leave the maps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use llb_common::sockmap::Switch;
use rustix::net::sockopt::socket_cookie;
use tokio::time::Instant;

use super::error::SockmapError;
use super::maps::Maps;
use super::source::Source;
use crate::clock;

/// How long the kernel's worker may take. It needs microseconds, but longer on a
/// machine that is short of CPU time.
const WORKER_LIMIT: Duration = Duration::from_secs(1);

/// One direction of a connection that has come back from the kernel.
#[derive(Debug, Default)]
pub(in super::super) struct ReturnedStream {
    /// Bytes that the kernel has moved.
    pub(in super::super) moved: u64,
    /// Set while the socket that the stream comes from is still in the maps.
    pub(in super::super) mapped: Option<Mapped>,
    /// The socket that gets the bytes is lost, and some of them with it.
    pub(in super::super) is_lost: bool,
}

/// A socket that is still in the maps. Dropping this removes it from them, which
/// is right only when the connection ends or everything was read.
pub(in super::super) struct Mapped {
    maps: Arc<Maps>,
    source: Source,
    /// Bytes read by the agent.
    read: u64,
    /// When FIN was first read before bytes that belong in front of it.
    early_fin_since: Option<Instant>,
    /// The socket leaves the maps when all its bytes are read.
    is_leaving: bool,
    /// It has left.
    has_left: bool,
    /// Bytes that the kernel has moved, as far as they are counted.
    pub(super) redirected: u64,
}

impl Mapped {
    pub(super) fn new(maps: Arc<Maps>, source: Source) -> Self {
        Self {
            maps,
            source,
            read: 0,
            early_fin_since: None,
            is_leaving: true,
            has_left: false,
            redirected: 0,
        }
    }

    /// A socket that the register program has added; `None`: it has not.
    pub(super) fn adopt(maps: &Arc<Maps>, socket: impl AsFd) -> Option<Self> {
        Self::registered(maps, socket_cookie(socket).ok()?)
    }

    fn registered(maps: &Arc<Maps>, cookie: u64) -> Option<Self> {
        maps.stream(cookie)?;
        let mut mapped = Self::new(Arc::clone(maps), Source { cookie });
        mapped.is_leaving = false;
        Some(mapped)
    }

    /// Whether the kernel may move its bytes while it stays in the maps.
    pub(in super::super) fn is_joinable(&self) -> bool {
        !self.is_leaving
    }

    /// From now on the socket should leave the maps: see [`Mapped::release`].
    pub(in super::super) fn leave(&mut self) {
        self.is_leaving = true;
    }

    pub(super) fn source(&self) -> Source {
        self.source
    }

    /// Bytes read by the agent.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Counts bytes that the agent has read.
    pub(in super::super) fn count(&mut self, read: usize) {
        self.read += read as u64;
    }

    /// Call this when there is nothing to read. Returns whether the socket has
    /// left the maps and is an ordinary one from here on.
    ///
    /// # Errors
    /// It can't leave and can't stay either; bytes may be lost.
    pub(in super::super) fn release(&mut self, socket: &(impl AsFd + AsRawFd)) -> io::Result<bool> {
        self.has_left =
            self.source.try_deactivate(&self.maps, socket, self.read).map_err(io::Error::other)?;
        Ok(self.has_left)
    }

    /// Call this when FIN was read. Returns whether bytes are still to come before
    /// it: the kernel's worker delivers what the program left to the agent behind
    /// redirected bytes, and the socket does not wait for the worker before it
    /// reports FIN.
    ///
    /// # Errors
    /// Bytes were lost before FIN.
    pub(in super::super) fn has_more_before_fin(&mut self) -> io::Result<bool> {
        let stream = self.source.stream(&self.maps);
        if stream.switch == Switch::Torn as u32 {
            return Err(io::Error::other(SockmapError::BytesLost));
        }
        // If the program was never put on the socket, it left no bytes to the agent.
        if stream.passed <= self.read {
            return Ok(false);
        }
        if self.early_fin_since.get_or_insert_with(clock::now).elapsed() > WORKER_LIMIT {
            return Err(io::Error::other("bytes before FIN were lost in the kernel"));
        }
        Ok(true)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.has_left {
            self.maps.forget(self.source.cookie);
        } else {
            // The socket leaves the other maps when it is closed.
            self.maps.forget_stream(self.source.cookie);
        }
    }
}

/// A socket that is about to connect, and is put into the maps when it is established. Must outlive the attempt
/// to connect: dropping this removes what the register program has left.
pub(in super::super) struct Marked {
    maps: Arc<Maps>,
    cookie: u64,
    is_adopted: bool,
}

impl Marked {
    pub(super) fn new(maps: &Arc<Maps>, socket: &(impl AsFd + AsRawFd)) -> Result<Self, SockmapError> {
        let cookie = socket_cookie(socket)?;
        maps.mark(socket)?;
        Ok(Self { maps: Arc::clone(maps), cookie, is_adopted: false })
    }

    /// Call this when the socket is connected. `None`: the program has not put it into the maps.
    pub(in super::super) fn adopt(mut self) -> Option<Mapped> {
        self.is_adopted = true;
        Mapped::registered(&self.maps, self.cookie)
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        if !self.is_adopted {
            self.maps.forget_stream(self.cookie);
        }
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped").field("read", &self.read).finish_non_exhaustive()
    }
}
