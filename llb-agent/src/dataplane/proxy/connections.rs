// SPDX-License-Identifier: Apache-2.0
//! The open connections of one frontend: counts them, waits for the last one to
//! end, and cuts all at once. Knows nothing of what they do.
//!
//! When the frontend moves to another plane, those that are open then are the old ones: the
//! other plane leaves their packets to this one, until the last of them has ended.
//!
//! ```text
//!   start_move ---> moving: what is accepted counts as old ---> end_move ---> old ones end, new ones do not count
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// One entry for each open connection.
#[derive(Debug, Default)]
pub(super) struct Connections {
    state: Mutex<State>,
    /// Notified when the last connection, or the last old one, has ended.
    all_left: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: Slab<Open>,
    is_cut: bool,
    /// How many of them are old.
    old: usize,
    is_moving: bool,
    /// Moves that have begun or were called off so far.
    moves: u64,
}

#[derive(Debug, Default)]
struct Open {
    /// A connection has no task between `enter` and `started`.
    task: Option<AbortHandle>,
    is_old: bool,
}

/// A move that has begun. A later one calls it off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move(u64);

impl Connections {
    /// Counts one more connection and returns its number for
    /// [`Connections::leave`]; `None` once all have been cut.
    pub(super) fn enter(&self) -> Option<usize> {
        let mut state = self.lock();
        (!state.is_cut).then(|| state.open.insert(Open::default()))
    }

    /// `task` serves connection `number` from now on.
    pub(super) fn started(&self, number: usize, task: AbortHandle) {
        let mut state = self.lock();
        if state.is_cut {
            drop(state);
            task.abort();
        } else if let Some(open) = state.open.get_mut(number) {
            open.task = Some(task);
        }
    }

    /// Connection `number` has ended and its sockets are closed.
    pub(super) fn leave(&self, number: usize) {
        let mut state = self.lock();
        let was_old = state.open.try_remove(number).is_some_and(|open| open.is_old);
        state.old -= usize::from(was_old);
        if state.open.is_empty() || (was_old && state.old == 0) {
            self.all_left.notify_waiters();
        }
    }

    /// The number of open connections.
    pub(super) fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// Aborts the tasks of all connections; each then calls `leave` soon.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        state.is_cut = true;
        let tasks: Vec<AbortHandle> = state.open.iter().filter_map(|(_, open)| open.task.clone()).collect();
        // An aborted task may call `leave` at once, which takes the lock.
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// Waits until no connection is open.
    pub(super) async fn wait_until_none(&self) {
        self.wait_until(|| self.count() == 0).await;
    }

    /// From now on the frontend moves to another plane. What is accepted until
    /// [`Connections::end_move`] is old too.
    pub(super) fn start_move(&self) -> Move {
        let mut state = self.lock();
        state.moves += 1;
        state.is_moving = true;
        Move(state.moves)
    }

    /// What is open now is old, and what is accepted from now on is not.
    pub(super) fn end_move(&self, moved: Move) {
        let mut state = self.lock();
        if !state.is_moving || state.moves != moved.0 {
            return;
        }
        state.is_moving = false;
        state.open.iter_mut().for_each(|(_, open)| open.is_old = true);
        state.old = state.open.len();
    }

    /// The frontend does not move, or has come back: no connection is old.
    pub(super) fn call_off_move(&self) {
        let mut state = self.lock();
        state.moves += 1;
        state.is_moving = false;
        state.open.iter_mut().for_each(|(_, open)| open.is_old = false);
        state.old = 0;
    }

    /// Whether there are connections from before a move, or can be.
    pub(super) fn has_old(&self) -> bool {
        let state = self.lock();
        state.is_moving || state.old > 0
    }

    /// Waits until there is none.
    pub(super) async fn wait_until_no_old(&self) {
        self.wait_until(|| !self.has_old()).await;
    }

    async fn wait_until(&self, is_reached: impl Fn() -> bool) {
        loop {
            let all_left = self.all_left.notified();
            tokio::pin!(all_left);
            // From here on no notification is missed.
            all_left.as_mut().enable();
            if is_reached() {
                return;
            }
            all_left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_open_at_a_move_is_old() {
        let connections = Connections::default();
        let before = connections.enter().unwrap();
        assert!(!connections.has_old());
        let called_off = connections.start_move();
        connections.call_off_move();
        let moved = connections.start_move();
        connections.end_move(called_off);
        let during = connections.enter().unwrap();
        connections.end_move(moved);
        let after = connections.enter().unwrap();
        connections.leave(before);
        assert!(connections.has_old());
        connections.leave(during);
        assert!(!connections.has_old());
        connections.leave(after);
        assert_eq!(connections.count(), 0);
    }

    #[test]
    fn a_frontend_that_comes_back_has_no_old_connections() {
        let connections = Connections::default();
        let number = connections.enter().unwrap();
        connections.end_move(connections.start_move());
        connections.call_off_move();
        assert!(!connections.has_old());
        connections.leave(number);
    }
}
