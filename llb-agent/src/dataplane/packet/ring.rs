// SPDX-License-Identifier: Apache-2.0
//! Waits until a ring buffer of the programs has something in it.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A wait ends after this time at the latest, so that the thread of a wait that was given up
/// ends too.
const LONGEST: Duration = Duration::from_millis(500);

/// Waits until something is there, or for half a second. Cancel safe.
///
/// # Errors
/// The kernel can't wait, or no descriptors are left.
pub(super) async fn wait(ring: &RingBuf<MapData>) -> io::Result<()> {
    let fd = ring.as_fd().try_clone_to_owned()?;
    let wait = move || {
        let longest = Timespec::try_from(LONGEST).map_err(io::Error::other)?;
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&longest)).map_err(io::Error::from)
    };
    // Without `unsafe`, tokio can't wait for a descriptor of this kind.
    tokio::task::spawn_blocking(wait).await.map_err(io::Error::other)?.map(drop)
}
