// SPDX-License-Identifier: Apache-2.0
//! Announces VIPs to the segment, from a background task that paces them. This is
//! best effort: a failed announcement is logged and is never an error. The guard
//! decides what is announced and what starts it.
//!
//! ```text
//!   announce() --+
//!                +--> Schedule (bounded) --> task: one VIP when due, then a pause --> packet socket
//!   cancel() ----+
//! ```
//!
//! [`schedule`] has the times, [`packet`] the sockets that listen, this file the task.
//!
//! In a group a whole share moves at once, and an announcement that comes too late would lead clients to the box that has just
//! lost the VIP. So there VIPs are announced in bursts ([`BURST`]), and each burst begins with a look ([`here`]) at what is here
//! now.

mod here;
pub(super) mod packet;
mod schedule;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::here::Here;
pub(super) use self::schedule::Repeat;
use self::schedule::{Announcement, Schedule};
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::model::AddressKey;
use crate::packet_socket;

/// The pause between two VIPs, so that many VIPs do not make a burst. Switches
/// process broadcasts on their CPU, and drop those over a few hundred per second.
const PAUSE: Duration = Duration::from_millis(5);

/// How many VIPs are announced between two pauses in a group. It is large, because clients wait for the last VIP: a
/// thousand take 0.3 s. It may be large, because announcements that a switch drops are repeated, and the gateway gets its own.
const BURST: usize = 16;

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
    /// Notified when something may be due earlier than before.
    due_changed: Notify,
    /// keepalived decides which box of a group has a VIP.
    in_group: AtomicBool,
}

impl Announcer {
    /// Opens the packet socket in the caller's network namespace.
    ///
    /// # Errors
    /// The kernel does not provide a packet socket, mostly for lack of CAP_NET_RAW.
    pub(super) fn open() -> io::Result<Self> {
        let socket = packet_socket::sender()?;
        let queue = Arc::<Queue>::default();
        let mut task = JoinSet::new();
        task.spawn(run(Arc::clone(&queue), socket));
        Ok(Self { queue, _task: task })
    }

    /// From now on this machine is one of a group.
    pub(super) fn join_group(&self) {
        self.queue.in_group.store(true, Ordering::Relaxed);
    }

    /// Announces a VIP by sending `frames` on the link of number `index`.
    pub(super) fn announce(&self, key: &AddressKey, index: u32, frames: Vec<Vec<u8>>, repeat: Repeat) {
        let announcement = Announcement { key: key.clone(), index, frames };
        if self.queue.schedule().start(announcement, repeat, clock::now()) {
            self.queue.due_changed.notify_one();
        } else {
            tracing::warn!(address = %key, "too many VIPs are being announced, so this one is not");
        }
    }

    /// Stops announcing a VIP, because it is about to be removed.
    pub(super) fn cancel(&self, key: &AddressKey) {
        self.queue.schedule().cancel(key);
    }
}

impl Queue {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // The schedule is valid at any point where a panic can happen.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(queue: Arc<Queue>, socket: Socket) {
    loop {
        let next_due = queue.schedule().next_due();
        match next_due {
            None => queue.due_changed.notified().await,
            // Ends early when something was added that may be due earlier.
            Some(due) => _ = tokio::time::timeout_at(due, queue.due_changed.notified()).await,
        }
        if send_due(&queue, &socket).await {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Sends what is due, at most a burst. True if there was something.
async fn send_due(queue: &Queue, socket: &Socket) -> bool {
    let in_group = queue.in_group.load(Ordering::Relaxed);
    let due: Vec<Announcement> = {
        let mut schedule = queue.schedule();
        let most = if in_group { BURST } else { 1 };
        std::iter::from_fn(|| schedule.take_due(clock::now())).take(most).collect()
    };
    if due.is_empty() {
        return false;
    }
    let here = if in_group { Here::look().await } else { Here::default() };
    for Announcement { key, index, frames } in due {
        if !here.may_have(index, key.address) {
            // A newer series may have begun since the look, so nothing is cancelled.
            continue;
        }
        match frames.iter().try_for_each(|frame| packet_socket::send(socket, index, frame)) {
            Ok(()) => tracing::debug!(address = %key, "the VIP was announced"),
            Err(error) => {
                tracing::warn!(address = %key, error = %ErrorChain(&error), "cannot announce the VIP")
            }
        }
    }
    true
}
