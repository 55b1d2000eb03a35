// SPDX-License-Identifier: Apache-2.0
//! Whether this agent may still attach programs. While it hands over, another one attaches its own to the same links: a late
//! program of this one must not come between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clones share it. The lock is held while a program is attached, not while the kernel looks at it, which may take many
/// seconds.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    is_over: Arc<Mutex<bool>>,
}

impl Turn {
    /// Taken for the time of one attachment; `None` if this agent's turn is over.
    pub(super) fn take(&self) -> Option<MutexGuard<'_, bool>> {
        Some(self.lock()).filter(|is_over| !**is_over)
    }

    /// Waits for an attachment that has begun. None begins after that.
    pub(super) fn end(&self) {
        *self.lock() = true;
    }

    /// The other agent has not taken over.
    pub(super) fn resume(&self) {
        *self.lock() = false;
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_attached_after_the_end_of_the_turn() {
        let turn = Turn::default();
        assert!(turn.take().is_some());
        turn.clone().end();
        assert!(turn.take().is_none());
        turn.resume();
        assert!(turn.take().is_some());
    }

    #[test]
    fn the_end_waits_for_an_attachment() {
        let turn = Turn::default();
        let attaching = turn.take().unwrap();
        let ending = std::thread::spawn({
            let turn = turn.clone();
            move || turn.end()
        });
        assert!(!*attaching, "the lock is held, so it can't have ended");
        drop(attaching);
        ending.join().unwrap();
        assert!(turn.take().is_none());
    }
}
