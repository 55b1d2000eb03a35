// SPDX-License-Identifier: Apache-2.0
//! The tasks of the guard: one sends probes, two for each link listen. What they
//! send, and what follows from what they hear, is decided in `ownership`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::sync::Notify;

use super::super::announce::packet::{HEARD_LENGTH, Listener};
use super::heard::Heard;
use super::ownership::Ownership;
use super::probes::Output;
use crate::clock;
use crate::error_chain::ErrorChain;
use crate::packet_socket;

/// Probes are sent in bursts of this many, with this pause between bursts. All
/// new VIPs are probed for at the same time: a hundred in about 0.2 s, 2,000
/// (6,000 frames of at most 78 bytes) in 0.6 s. A burst takes 40 us of a link of
/// 1 Gbit/s, and all bursts take 1 % of it. If a probe is lost, two more follow.
const BURST: usize = 64;
const BURST_PAUSE: Duration = Duration::from_millis(5);

/// The pause after a listener failed, as it does when its link goes down.
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// What the guard and its tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    ownership: Mutex<Ownership>,
    /// Notified when something may be due earlier than before.
    due_changed: Notify,
    /// Wakes the reconciler.
    changed: Arc<Notify>,
}

impl Shared {
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        Self { ownership: Mutex::default(), due_changed: Notify::new(), changed }
    }

    /// For short calls, never across an await.
    pub(super) fn ownership(&self) -> MutexGuard<'_, Ownership> {
        // The value is valid at any point where a panic can happen.
        self.ownership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes [`probe`] look when the next output is due.
    pub(super) fn due_changed(&self) {
        self.due_changed.notify_one();
    }
}

/// Reports what neighbours on one link say about addresses.
pub(super) async fn listen(shared: Arc<Shared>, listener: Listener, index: u32) {
    let mut buffer = [0; HEARD_LENGTH];
    loop {
        match listener.next(&mut buffer).await {
            Ok(frame) => {
                let Some(heard) = Heard::parse(frame) else { continue };
                if shared.ownership().hear(index, heard, clock::now()) {
                    shared.changed.notify_one();
                    shared.due_changed();
                }
            }
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), index, "listening on the link failed; it is tried again");
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
        }
    }
}

/// Sends probes when they are due.
pub(super) async fn probe(shared: Arc<Shared>, socket: Socket) {
    let mut sent = 0;
    loop {
        let output = shared.ownership().advance(clock::now());
        match output {
            Some(Output::Send { index, frame }) => {
                if let Err(error) = packet_socket::send(&socket, index, &frame) {
                    tracing::debug!(error = %ErrorChain(&error), index, "cannot send a probe");
                }
                sent += 1;
                if sent % BURST == 0 {
                    tokio::time::sleep(BURST_PAUSE).await;
                }
            }
            Some(Output::WakeReconciler) => shared.changed.notify_one(),
            None => {
                let next_due = shared.ownership().next_due();
                match next_due {
                    None => shared.due_changed.notified().await,
                    Some(due) => _ = tokio::time::timeout_at(due, shared.due_changed.notified()).await,
                }
            }
        }
    }
}
