//! A stream that has switched to user space, while its socket is still in the
//! maps: its bytes lie where recv(2) finds them and splice(2) does not. As
//! soon as all are read, the socket can leave.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use super::maps::Maps;
use super::pair::{kick, stop_source};

/// Marks a key of `TARGETS` whose socket gets nothing. The kernel counts
/// cookies up from 1.
const HOLD: u64 = 1 << 63;

/// The source of such a stream. Dropped, it is forgotten: only at the end.
pub(in super::super) struct Mapped {
    maps: Arc<Maps>,
    cookie: u64,
    /// Bytes read by the agent.
    read: u64,
}

impl Mapped {
    pub(super) fn new(maps: Arc<Maps>, cookie: u64) -> Self {
        Self { maps, cookie, read: 0 }
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
        // The kernel takes only established sockets. With FIN behind the last
        // bytes it does not pay to leave. The second entry keeps what is in the
        // socket's queues while it is out of the other map.
        let hold = self.cookie | HOLD;
        if self.maps.set_target(hold, socket).is_err() {
            return Ok(false);
        }
        stop_source(&self.maps, self.cookie, socket);
        let passed = self.maps.stream(self.cookie).map_or(0, |stream| stream.passed);
        let is_free = passed == self.read;
        let outcome = if is_free {
            Ok(true)
        } else {
            // More has come meanwhile.
            let again = self.maps.activate(self.cookie, socket);
            kick(socket);
            again.map(|()| false).map_err(io::Error::other)
        };
        self.maps.forget(hold);
        outcome
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.maps.forget(self.cookie);
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped").field("read", &self.read).finish_non_exhaustive()
    }
}
