// SPDX-License-Identifier: Apache-2.0
//! A stream that the relay reads while its socket is still in the maps. Its bytes
//! are where recv(2) finds them and splice(2) does not. As soon as all of them
//! are read, the socket can leave the maps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use llb_common::sockmap::Switch;
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
}

impl Mapped {
    pub(super) fn new(maps: Arc<Maps>, source: Source) -> Self {
        Self { maps, source, read: 0, early_fin_since: None }
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
    pub(in super::super) fn release(&self, socket: &(impl AsFd + AsRawFd)) -> io::Result<bool> {
        self.source.try_deactivate(&self.maps, socket, self.read).map_err(io::Error::other)
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
        self.maps.forget(self.source.cookie);
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped").field("read", &self.read).finish_non_exhaustive()
    }
}
