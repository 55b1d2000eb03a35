//! Tells the segment where a new VIP is: three times, from a background task,
//! paced. Best effort: a failed announcement is logged, never an error.
//!
//! ```text
//!   announce() --+
//!                +--> Schedule (bounded) --> task: one frame when due, then a pause --> packet socket
//!   cancel() ----+
//! ```
//!
//! [`frame`] has the bytes, [`schedule`] the times; this file has the task and
//! the socket.

mod frame;
mod schedule;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::frame::Mac;
use self::schedule::{Announcement, Schedule};
use crate::model::AddressKey;

/// Between two frames, so that many VIPs at once are no burst: switches hand
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
        // Protocol 0: it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        let queue = Arc::<Queue>::default();
        let mut task = JoinSet::new();
        task.spawn(run(Arc::clone(&queue), socket));
        Ok(Self { queue, _task: task })
    }

    /// Starts to announce a VIP that was just added to `link`. Does nothing on
    /// a link that has no neighbours to tell.
    pub(super) fn announce(&self, key: &AddressKey, link: &LinkMessage) {
        let Some(mac) = mac(link) else { return };
        let frame = frame::announcement(mac, key.address);
        let announcement = Announcement { key: key.clone(), index: link.header.index, frame };
        if self.queue.schedule().start(announcement, Instant::now()) {
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
        if let Some(Announcement { key, index, frame }) = due {
            match send(&socket, index, &frame) {
                Ok(()) => tracing::debug!(address = %key, "announced"),
                Err(error) => tracing::warn!(address = %key, %error, "cannot announce the VIP"),
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

fn send(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    socket.send_to(frame, &link_address(index, frame)?).map(|_| ())
}

/// packet(7): which link a frame leaves on, and its protocol as in bytes 12
/// and 13 of the frame.
fn link_address(index: u32, frame: &[u8]) -> io::Result<SockAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: u16::from_ne_bytes([frame[12], frame[13]]),
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: size_of::<Mac>() as u8,
        sll_addr: [0; 8],
    };
    #[expect(unsafe_code, reason = "neither std nor socket2 nor rustix has packet socket addresses")]
    // SAFETY: the storage is as large and as aligned as every kind of socket
    // address, and the written length is that of what was written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(address);
            length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t);
            Ok(())
        })
    }?;
    Ok(address)
}

/// The MAC of a link with neighbours; `None` for loopback, tunnels and the like.
fn mac(link: &LinkMessage) -> Option<Mac> {
    if link.header.link_layer_type != LinkLayerType::Ether || link.header.flags.contains(LinkFlags::Noarp) {
        return None;
    }
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => Mac::try_from(bytes.as_slice()).ok(),
        _ => None,
    })
}
