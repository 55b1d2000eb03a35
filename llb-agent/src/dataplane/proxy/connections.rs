// SPDX-License-Identifier: Apache-2.0
//! The open connections of one frontend: counts them, waits for the last one to
//! end, and cuts all at once. Knows nothing of what they do.

use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// One entry for each open connection.
#[derive(Debug, Default)]
pub(super) struct Connections {
    state: Mutex<State>,
    /// Notified when the last connection has ended.
    all_left: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// A connection has no task between `enter` and `started`.
    tasks: Slab<Option<AbortHandle>>,
    is_cut: bool,
}

impl Connections {
    /// Counts one more connection and returns its number for
    /// [`Connections::leave`]; `None` once all have been cut.
    pub(super) fn enter(&self) -> Option<usize> {
        let mut state = self.lock();
        (!state.is_cut).then(|| state.tasks.insert(None))
    }

    /// `task` serves connection `number` from now on.
    pub(super) fn started(&self, number: usize, task: AbortHandle) {
        let mut state = self.lock();
        if state.is_cut {
            drop(state);
            task.abort();
        } else if let Some(entry) = state.tasks.get_mut(number) {
            *entry = Some(task);
        }
    }

    /// Connection `number` has ended and its sockets are closed.
    pub(super) fn leave(&self, number: usize) {
        let mut state = self.lock();
        state.tasks.try_remove(number);
        if state.tasks.is_empty() {
            self.all_left.notify_waiters();
        }
    }

    /// The number of open connections.
    pub(super) fn count(&self) -> usize {
        self.lock().tasks.len()
    }

    /// Aborts the tasks of all connections; each then calls `leave` soon.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        state.is_cut = true;
        let tasks: Vec<AbortHandle> = state.tasks.iter().filter_map(|(_, task)| task.clone()).collect();
        // An aborted task may call `leave` at once, which takes the lock.
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// Waits until no connection is open.
    pub(super) async fn wait_until_none(&self) {
        loop {
            let all_left = self.all_left.notified();
            tokio::pin!(all_left);
            // From here on no notification is missed.
            all_left.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            all_left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
