// SPDX-License-Identifier: Apache-2.0
//! A stream that has switched to user space, while its socket is still in the
//! maps: its bytes lie where recv(2) finds them and splice(2) does not. As
//! soon as all are read, the socket can leave.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use llb_common::sockmap::Switch;
use tokio::time::Instant;

use super::SockmapError;
use super::leave::Source;
use super::maps::Maps;

/// The kernel's worker needs microseconds, or longer on a machine that has no
/// time for it.
const WORKER_LIMIT: Duration = Duration::from_secs(1);

/// The source of such a stream. Dropped, it is forgotten: only at the end.
pub(in super::super) struct Mapped {
    maps: Arc<Maps>,
    source: Source,
    /// Bytes read by the agent.
    read: u64,
    /// The socket has told an end that was too early.
    early_since: Option<Instant>,
}

impl Mapped {
    pub(super) fn new(maps: Arc<Maps>, source: Source) -> Self {
        Self { maps, source, read: 0, early_since: None }
    }

    /// So many bytes were read.
    pub(in super::super) fn count(&mut self, read: usize) {
        self.read += read as u64;
    }

    /// To be called when there is nothing to read: whether the socket is plain
    /// from here on.
    ///
    /// # Errors
    /// It can't go on as it was either; bytes may be missing.
    pub(in super::super) fn release(&self, socket: &(impl AsFd + AsRawFd)) -> io::Result<bool> {
        self.source.leave(&self.maps, socket, self.read).map_err(io::Error::other)
    }

    /// To be called at an end: whether there is more to come before it. What was
    /// left to us behind bytes for the same socket comes through the hands of the
    /// kernel's worker, and the socket does not wait for that to tell its FIN.
    ///
    /// # Errors
    /// It does not come, or bytes are missing before it.
    pub(in super::super) fn is_early(&mut self) -> io::Result<bool> {
        let stream = self.source.stream(&self.maps);
        if stream.switch == Switch::Torn as u32 {
            return Err(io::Error::other(SockmapError::Torn));
        }
        // Of a socket that the program never was put on, none were left to us.
        if stream.passed <= self.read {
            return Ok(false);
        }
        if self.early_since.get_or_insert_with(Instant::now).elapsed() > WORKER_LIMIT {
            return Err(io::Error::other("bytes are missing at the end"));
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
