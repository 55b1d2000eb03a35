// SPDX-License-Identifier: Apache-2.0
//! When this machine, not a peer, is the reason: telling it apart, and how
//! long to wait for better times.

use std::io;
use std::time::Duration;

/// How long a loop rests when the machine is out of file descriptors or
/// memory: long enough not to spin, short enough that no client gives up.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Out of file descriptors, memory or local ports; no backend is to blame.
pub(super) fn lacks_resources(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EADDRNOTAVAIL)
    )
}
