// SPDX-License-Identifier: Apache-2.0
//! The threads that serve connections and UDP sessions: one single-threaded
//! runtime each. What begins on a worker stays there, so its buffers, pipes and
//! sockets stay in one core's cache, and no two threads compete for a task. The
//! kernel chooses the worker of a connection (`bind.rs`).

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::pipe;

/// All workers. Dropping this ends them and everything that runs on them.
#[derive(Debug)]
pub(super) struct Workers {
    handles: Vec<Handle>,
    /// Which one comes next.
    turn: AtomicUsize,
    _stop: DropGuard,
}

impl Workers {
    /// # Errors
    /// The kernel gives no more threads or descriptors.
    pub(super) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (mut handles, pipes) = (Vec::new(), pipe::most_for_each_of(count));
        for number in 0..count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let stopped = stop.clone().cancelled_owned();
            thread::Builder::new().name(format!("llb-relay-{number}")).spawn(move || {
                pipe::allow(pipes);
                runtime.block_on(stopped)
            })?;
        }
        Ok(Self { handles, turn: AtomicUsize::new(0), _stop: stop.drop_guard() })
    }

    /// One handle for each worker.
    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// The worker whose turn it is, so that listeners with one socket are spread over all.
    pub(super) fn next(&self) -> &Handle {
        &self.handles[self.turn.fetch_add(1, Ordering::Relaxed) % self.handles.len()]
    }
}
