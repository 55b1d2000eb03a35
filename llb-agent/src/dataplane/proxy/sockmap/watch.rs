// SPDX-License-Identifier: Apache-2.0
//! Wakes the task of a pair when something happens that the kernel leaves to
//! it: FIN, an error, or an event of the program. One epoll and one thread for
//! all pairs. Data alone wakes nobody: the relay's own epoll would be woken by
//! each segment, to find nothing.

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

/// The events of the program, of which there is one reader.
type Events = RingBuf<MapData>;

/// What epoll says of the ring buffer; no socket has it as its cookie.
const EVENTS: u64 = u64::MAX;

/// Events of one call.
const AT_ONCE: usize = 64;

/// And the end of the thread.
const STOP: u64 = EVENTS - 1;

/// What can be waited for.
pub(super) struct Watch {
    epoll: OwnedFd,
    stop: OwnedFd,
    waiting: Arc<Waiting>,
}

/// Who waits, by the cookies of their sockets.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, Arc<Notify>>>);

/// A pair that is watched until this is dropped.
pub(super) struct Watched<'a> {
    watch: &'a Watch,
    cookies: [u64; 2],
    /// Told when there is something to look at.
    pub(super) notify: Arc<Notify>,
}

impl Watch {
    /// Nobody waits yet. The thread that wakes ends when this is dropped.
    ///
    /// # Errors
    /// No descriptors or threads are left.
    pub(super) fn start(events: Map) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let (waiting, ready) = (Arc::<Waiting>::default(), epoll.try_clone()?);
        let all = Arc::clone(&waiting);
        // The ring buffer's handle can't be sent, so the thread opens it.
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

    /// From now on `notify` of the result is told. What has happened already
    /// is told too.
    ///
    /// # Errors
    /// No memory is left.
    pub(super) fn watch(&self, cookies: [u64; 2], sockets: [&TcpStream; 2]) -> io::Result<Watched<'_>> {
        let watched = Watched { watch: self, cookies, notify: Arc::default() };
        {
            let mut waiting = self.waiting.lock();
            for cookie in cookies {
                waiting.insert(cookie, Arc::clone(&watched.notify));
            }
        }
        for (cookie, socket) in cookies.into_iter().zip(sockets) {
            // Errors come unasked.
            let flags = epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(&self.epoll, socket, epoll::EventData::new_u64(cookie), flags)?;
        }
        Ok(watched)
    }

    /// These sockets go on living, elsewhere. (Closed ones leave by themselves.)
    pub(super) fn release(&self, sockets: [&TcpStream; 2]) {
        for socket in sockets {
            if let Err(error) = epoll::delete(&self.epoll, socket) {
                tracing::debug!(%error, "a socket was not watched");
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
    let mut buffer = Vec::with_capacity(AT_ONCE);
    loop {
        buffer.clear();
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut buffer), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "pairs of sockets are not watched any more"),
        }
        for happened in &buffer {
            match happened.data.u64() {
                STOP => return,
                EVENTS => {
                    while let Some(event) = events.next() {
                        if let Ok(event) = bytemuck::try_pod_read_unaligned::<Event>(&event) {
                            waiting.tell(event.cookie);
                        }
                    }
                }
                cookie => waiting.tell(cookie),
            }
        }
    }
}

impl Waiting {
    fn tell(&self, cookie: u64) {
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

/// Whether the socket has an error or is closed in both directions; unlike
/// SO_ERROR, asking takes nothing away.
pub(super) fn is_lost(socket: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut asked = [PollFd::new(&socket, PollFlags::empty())];
    let at_once = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
    poll(&mut asked, at_once).is_ok_and(|_| asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP))
}
