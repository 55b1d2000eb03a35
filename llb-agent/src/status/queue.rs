// SPDX-License-Identifier: Apache-2.0
//! Events that wait to be sent. Bounded: while the API server is away, the oldest make room for
//! the newest. Not: how they are sent (`events.rs`).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Event;

/// The most Events that wait. An Event takes less than 2 kB.
pub(super) const MOST_WAITING: usize = 1000;
/// An Event that has waited for this long is no news any more.
const STALE: Duration = Duration::from_secs(600);

/// The queue. Any task may add Events, and any may take them.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    waiting: Mutex<VecDeque<Waiting>>,
    added: Notify,
    /// Events that were never sent: too many waited, or they waited too long.
    pub(super) dropped: Counter,
}

/// An Event and when it happened.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) event: Event,
    pub(super) at: SystemTime,
    pub(super) since: Instant,
}

impl EventQueue {
    /// Adds the Event, unless it waits already.
    pub(super) fn add(&self, event: Event, at: SystemTime, since: Instant) {
        let mut waiting = self.lock();
        if waiting.iter().any(|known| known.event == event) {
            return;
        }
        if waiting.len() >= MOST_WAITING {
            waiting.pop_front();
            self.dropped.inc();
        }
        waiting.push_back(Waiting { event, at, since });
        self.added.notify_one();
    }

    /// Puts back an Event that could not be sent. Newer ones do not make room for it.
    pub(super) fn put_back(&self, event: Waiting) {
        let mut waiting = self.lock();
        if waiting.len() >= MOST_WAITING {
            self.dropped.inc();
        } else {
            waiting.push_front(event);
            self.added.notify_one();
        }
    }

    /// Waits for the next Event to send.
    pub(super) async fn next(&self, now: impl Fn() -> Instant) -> Waiting {
        loop {
            if let Some(next) = self.take(now()) {
                return next;
            }
            self.added.notified().await;
        }
    }

    fn take(&self, now: Instant) -> Option<Waiting> {
        let mut waiting = self.lock();
        loop {
            let next = waiting.pop_front()?;
            if now.saturating_duration_since(next.since) < STALE {
                // One notification may stand for several Events.
                if !waiting.is_empty() {
                    self.added.notify_one();
                }
                return Some(next);
            }
            self.dropped.inc();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::model::ServiceName;

    fn event(number: usize) -> Event {
        Event {
            service: ServiceName::new("default", "web"),
            uid: String::new(),
            warning: true,
            reason: "SyncLoadBalancerFailed",
            message: format!("problem {number}"),
        }
    }

    fn add(queue: &EventQueue, number: usize) {
        queue.add(event(number), clock::time_of_day(), clock::now());
    }

    #[tokio::test]
    async fn the_oldest_event_makes_room_for_the_newest() {
        let queue = EventQueue::default();
        for number in 0..MOST_WAITING + 5 {
            add(&queue, number);
        }
        assert_eq!(queue.dropped.get(), 5);
        let first = queue.next(clock::now).await;
        assert_eq!(first.event, event(5));
        queue.put_back(first);
        assert_eq!(queue.next(clock::now).await.event, event(5), "it is the next one again");
    }

    #[tokio::test]
    async fn the_same_event_waits_only_once_and_other_texts_are_other_events() {
        let queue = EventQueue::default();
        [1, 2, 1, 2, 1].iter().for_each(|&number| add(&queue, number));
        let taken = [queue.next(clock::now).await.event, queue.next(clock::now).await.event];
        assert_eq!(taken, [event(1), event(2)]);
        assert!(queue.take(clock::now()).is_none());
    }

    #[tokio::test]
    async fn an_event_that_waited_too_long_is_never_sent() {
        let queue = EventQueue::default();
        add(&queue, 1);
        assert!(queue.take(clock::now() + STALE).is_none());
        assert_eq!(queue.dropped.get(), 1);
    }
}
