// SPDX-License-Identifier: Apache-2.0
//! Tells the segment where a VIP is, from a background task, paced. Best
//! effort: a failed announcement is logged, never an error. What is said, and
//! when it is due to be said, is decided by the guard.
//!
//! ```text
//!   announce() --+
//!                +--> Schedule (bounded) --> task: one VIP when due, then a pause --> packet socket
//!   cancel() ----+
//! ```
//!
//! [`schedule`] has the times, [`packet`] the sockets (also those that listen);
//! this file has the task.

pub(super) mod packet;
mod schedule;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(super) use self::schedule::Repeat;
use self::schedule::{Announcement, Schedule};
use crate::model::AddressKey;

/// Between two VIPs, so that many VIPs at once are no burst: switches hand
/// broadcasts to their CPU and drop what is over a few hundred a second.
const PACE: Duration = Duration::from_millis(5);

/// Announces VIPs until it is dropped.
#[derive(Debug)]
pub(super) struct Announcer {
    queue: Arc<Queue>,
    /// Aborted with the announcer.
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Queue {
    schedule: Mutex<Schedule>,
    grown: Notify,
}

impl Announcer {
    /// Opens the packet socket in the caller's network namespace.
    ///
    /// # Errors
    /// Most likely a missing right: CAP_NET_RAW.
    pub(super) fn open() -> io::Result<Self> {
        let socket = packet::sender()?;
        let queue = Arc::<Queue>::default();
        let mut task = JoinSet::new();
        task.spawn(run(Arc::clone(&queue), socket));
        Ok(Self { queue, _task: task })
    }

    /// Sends `frames` about a VIP on the link of this number.
    pub(super) fn announce(&self, key: &AddressKey, index: u32, frames: Vec<Vec<u8>>, repeat: Repeat) {
        let announcement = Announcement { key: key.clone(), index, frames };
        if self.queue.schedule().start(announcement, repeat, Instant::now()) {
            self.queue.grown.notify_one();
        } else {
            tracing::warn!(address = %key, "too many VIPs at once, this one is not announced");
        }
    }

    /// Stops to announce a VIP that is about to be removed.
    pub(super) fn cancel(&self, key: &AddressKey) {
        self.queue.schedule().cancel(key);
    }
}

impl Queue {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // The schedule is whole between any two statements that could panic.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(queue: Arc<Queue>, socket: Socket) {
    loop {
        let next_due = queue.schedule().next_due();
        match next_due {
            None => queue.grown.notified().await,
            // Early when something was added: it is due before.
            Some(due) => _ = tokio::time::timeout_at(due, queue.grown.notified()).await,
        }
        let due = queue.schedule().take_due(Instant::now());
        if let Some(Announcement { key, index, frames }) = due {
            match frames.iter().try_for_each(|frame| packet::send(&socket, index, frame)) {
                Ok(()) => tracing::debug!(address = %key, "announced"),
                Err(error) => tracing::warn!(address = %key, %error, "cannot announce the VIP"),
            }
            tokio::time::sleep(PACE).await;
        }
    }
}
