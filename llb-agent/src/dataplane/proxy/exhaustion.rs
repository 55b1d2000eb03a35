// SPDX-License-Identifier: Apache-2.0
//! Errors that come from a shortage on this machine and not from a peer, and
//! how long to pause after one.

use std::io;
use std::time::Duration;

/// How long a loop pauses when the machine is out of file descriptors or
/// memory: long enough not to spin, short enough that no client gives up.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Whether the machine is out of file descriptors, memory or local ports. No
/// backend is at fault then.
pub(super) fn lacks_resources(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EADDRNOTAVAIL)
    )
}
