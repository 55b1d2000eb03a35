// SPDX-License-Identifier: Apache-2.0
//! Pipes through which bulk data passes from socket to socket without being
//! copied (splice(2)). Each worker keeps some for reuse. A connection has a pipe
//! only while there is something in it.

use std::cell::RefCell;
use std::io;
use std::num::NonZeroUsize;

use rustix::fd::{AsFd, OwnedFd};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::process::{Resource, getrlimit};

/// What one pipe may hold. The kernel's default of 64 KiB is 16 pages, which a
/// network card that uses one page for each packet fills with 16 packets.
const PIPE_BYTES: usize = 256 * 1024;

/// Pipes of one worker that may be in use at one time; a direction that gets
/// none copies. Bounds what blocked connections can hold to 256 MiB for each worker.
const MAX_PIPES: usize = 1024;

/// The part of the process's file descriptors that pipes may take: one in so many. Connections have
/// shares by namespace, pipes have not, so they must leave nearly everything to connections.
const DESCRIPTORS_FOR_ONE_OF_PIPES: u64 = 8;

/// Empty pipes that one worker keeps. Each has two descriptors.
const MAX_IDLE_PIPES: usize = 32;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: Vec::new(), lent: 0, most: MAX_PIPES }) };
}

struct Pool {
    idle: Vec<(OwnedFd, OwnedFd)>,
    lent: usize,
    most: usize,
}

/// How many pipes each of `workers` threads may have in use.
pub(super) fn most_for_each_of(workers: NonZeroUsize) -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / DESCRIPTORS_FOR_ONE_OF_PIPES;
    let pipes = usize::try_from(descriptors).unwrap_or(usize::MAX) / (2 * workers.get());
    pipes.min(MAX_PIPES)
}

/// Sets how many pipes this thread may have in use.
pub(super) fn allow(most: usize) {
    POOL.with_borrow_mut(|pool| pool.most = most);
}

/// A pipe on loan from its worker's pool, to which it returns if it is dropped empty.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Read end, write end.
    ends: Option<(OwnedFd, OwnedFd)>,
    level: usize,
}

impl Pipe {
    /// `None`: too many are in use, or the machine has no more descriptors.
    pub(super) fn lease() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if pool.lent >= pool.most {
                return None;
            }
            let ends = match pool.idle.pop() {
                Some(ends) => ends,
                None => create()
                    .inspect_err(|error| tracing::debug!(%error, "cannot create a pipe; bulk data is copied"))
                    .ok()?,
            };
            pool.lent += 1;
            Some(Self { ends: Some(ends), level: 0 })
        })
    }

    /// Bytes in the pipe.
    pub(super) fn level(&self) -> usize {
        self.level
    }

    /// Takes what `from` has received, as much as fits; 0 at its end. The pipe
    /// must be empty: otherwise `WouldBlock` could mean that the pipe is full.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let Some((_, write)) = &self.ends else { return Err(io::ErrorKind::WouldBlock.into()) };
        let moved = splice(from, None, write, None, PIPE_BYTES, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.level += moved;
        Ok(moved)
    }

    /// Gives `to` as much as it takes.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let Some((read, _)) = &self.ends else { return Err(io::ErrorKind::WouldBlock.into()) };
        let moved = splice(read, None, to, None, self.level, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.level -= moved;
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        // Fails only while the thread ends; the pipe is closed then.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.lent = pool.lent.saturating_sub(1);
            if self.level == 0 && pool.idle.len() < MAX_IDLE_PIPES {
                pool.idle.push(ends);
            }
        });
    }
}

fn create() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // The default size also works, if a larger one is not permitted (`fs.pipe-max-size`).
    if let Err(error) = fcntl_setpipe_size(&ends.0, PIPE_BYTES) {
        tracing::debug!(%error, "a pipe keeps its default size");
    }
    Ok(ends)
}
