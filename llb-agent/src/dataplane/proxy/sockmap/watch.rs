// SPDX-License-Identifier: Apache-2.0
//! Wakes the task of a pair when something happens that the relay must handle:
//! FIN, an error, or an event of the program. One epoll instance and one thread
//! serve all pairs. Data alone wakes no task. That is why the relay's own epoll
//! can't be used: it would wake the task for each segment, with nothing to read.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use aya::maps::{Map, MapData, RingBuf};
use llb_common::sockmap::Event;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use tokio::sync::Notify;

/// The events of the program, which have one reader.
type Events = RingBuf<MapData>;

/// Identifies the ring buffer in epoll events. No socket has it as its cookie.
const EVENTS: u64 = u64::MAX;

/// Identifies the end of the thread in epoll events.
const STOP: u64 = EVENTS - 1;

/// Events that one call of epoll_wait(2) returns.
const EVENTS_PER_CALL: usize = 64;

/// Watches pairs of sockets.
pub(super) struct Watch {
    epoll: OwnedFd,
    stop: OwnedFd,
    waiting: Arc<Waiting>,
}

/// The tasks that wait, by the cookies of their sockets.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, Arc<Notify>>>);

/// A pair that is watched until this is dropped.
pub(super) struct Watched<'a> {
    watch: &'a Watch,
    cookies: [u64; 2],
    /// Notified when something happens that the relay must handle.
    pub(super) notify: Arc<Notify>,
}

impl Watch {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    /// There are no descriptors or threads left.
    pub(super) fn start(events: Map) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let (waiting, ready) = (Arc::<Waiting>::default(), epoll.try_clone()?);
        let all = Arc::clone(&waiting);
        // The ring buffer's handle can't be sent to another thread, so that thread opens it.
        let (opened, is_open) = sync_channel(1);
        thread::Builder::new().name("llb-sockmap".to_owned()).spawn(move || {
            let flags = epoll::EventFlags::IN;
            let events = Events::try_from(events).map_err(io::Error::other).and_then(|events| {
                epoll::add(&ready, &events, epoll::EventData::new_u64(EVENTS), flags)?;
                Ok(events)
            });
            match events {
                Ok(events) => {
                    let _ = opened.send(Ok(()));
                    wake(&ready, events, &all);
                }
                Err(error) => _ = opened.send(Err(error)),
            }
        })?;
        is_open.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { epoll, stop, waiting })
    }

    /// Watches a pair from now on. What has happened before is notified too.
    ///
    /// # Errors
    /// There is no memory left.
    pub(super) fn watch(&self, cookies: [u64; 2], sockets: [&TcpStream; 2]) -> io::Result<Watched<'_>> {
        let watched = Watched { watch: self, cookies, notify: Arc::default() };
        {
            let mut waiting = self.waiting.lock();
            for cookie in cookies {
                waiting.insert(cookie, Arc::clone(&watched.notify));
            }
        }
        for (cookie, socket) in cookies.into_iter().zip(sockets) {
            // epoll always reports errors, even without a flag for them.
            let flags = epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(&self.epoll, socket, epoll::EventData::new_u64(cookie), flags)?;
        }
        Ok(watched)
    }

    /// Removes sockets that go back to the relay. (Closed sockets leave by themselves.)
    pub(super) fn release(&self, sockets: [&TcpStream; 2]) {
        for socket in sockets {
            if let Err(error) = epoll::delete(&self.epoll, socket) {
                tracing::debug!(%error, "cannot stop watching a socket");
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

fn wake(epoll: &OwnedFd, mut events: Events, waiting: &Waiting) {
    let mut buffer = Vec::with_capacity(EVENTS_PER_CALL);
    loop {
        buffer.clear();
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut buffer), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "pairs of sockets are no longer watched"),
        }
        for ready in &buffer {
            match ready.data.u64() {
                STOP => return,
                EVENTS => {
                    while let Some(event) = events.next() {
                        if let Ok(event) = bytemuck::try_pod_read_unaligned::<Event>(&event) {
                            waiting.notify(event.cookie);
                        }
                    }
                }
                cookie => waiting.notify(cookie),
            }
        }
    }
}

impl Waiting {
    fn notify(&self, cookie: u64) {
        if let Some(notify) = self.lock().get(&cookie) {
            notify.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut waiting = self.watch.waiting.lock();
        for cookie in self.cookies {
            waiting.remove(&cookie);
        }
    }
}

/// Whether the socket has an error or is closed in both directions. Unlike
/// reading SO_ERROR, this leaves the error in place.
pub(super) fn is_lost(socket: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut asked = [PollFd::new(&socket, PollFlags::empty())];
    let at_once = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
    poll(&mut asked, at_once).is_ok_and(|_| asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP))
}
