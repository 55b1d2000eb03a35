// SPDX-License-Identifier: Apache-2.0
//! The open connections of one frontend: how many there are, when the last has
//! ended, and ending all of them at once. Knows nothing of what they do.

use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// One entry for each open connection.
#[derive(Debug, Default)]
pub(super) struct Connections {
    state: Mutex<State>,
    /// Told when the last one has left.
    all_left: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Absent for the moment between `enter` and `started`.
    tasks: Slab<Option<AbortHandle>>,
    is_cut: bool,
}

impl Connections {
    /// Counts one more until [`Connections::leave`] with the number that this
    /// returns; `None` once all have been cut.
    pub(super) fn enter(&self) -> Option<usize> {
        let mut state = self.lock();
        (!state.is_cut).then(|| state.tasks.insert(None))
    }

    /// `entered` is served by this task from now on.
    pub(super) fn started(&self, entered: usize, task: AbortHandle) {
        let mut state = self.lock();
        if state.is_cut {
            drop(state);
            task.abort();
        } else if let Some(place) = state.tasks.get_mut(entered) {
            *place = Some(task);
        }
    }

    /// The connection has ended, its sockets are closed.
    pub(super) fn leave(&self, entered: usize) {
        let mut state = self.lock();
        state.tasks.try_remove(entered);
        if state.tasks.is_empty() {
            self.all_left.notify_waiters();
        }
    }

    /// Open now.
    pub(super) fn count(&self) -> usize {
        self.lock().tasks.len()
    }

    /// Ends all; each leaves soon.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        state.is_cut = true;
        let tasks: Vec<AbortHandle> = state.tasks.iter().filter_map(|(_, task)| task.clone()).collect();
        // An aborted task may call `leave` at once.
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// Until none is open.
    pub(super) async fn wait_until_none(&self) {
        loop {
            let all_left = self.all_left.notified();
            tokio::pin!(all_left);
            // From here on no notice is missed.
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
