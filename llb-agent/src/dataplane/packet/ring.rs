// SPDX-License-Identifier: Apache-2.0
//! Waits for a ring buffer of the programs to have something in it.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A wait ends after this at the latest, so that a thread that nobody waits for
/// any more ends too.
const LONGEST: Duration = Duration::from_millis(500);

/// Until something is there, or for half a second. Cancel safe.
///
/// # Errors
/// The kernel can't wait, or no descriptor is left.
pub(super) async fn wait(ring: &RingBuf<MapData>) -> io::Result<()> {
    let fd = ring.as_fd().try_clone_to_owned()?;
    let wait = move || {
        let longest = Timespec::try_from(LONGEST).map_err(io::Error::other)?;
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&longest)).map_err(io::Error::from)
    };
    // tokio can wait for a descriptor of its own kinds only, without `unsafe`.
    tokio::task::spawn_blocking(wait).await.map_err(io::Error::other)?.map(drop)
}
