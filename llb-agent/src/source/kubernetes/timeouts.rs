// SPDX-License-Identifier: Apache-2.0
//! How long the parts of the source wait. They depend on each other, so they are
//! in one place.

use std::time::Duration;

use crate::source::retries::LAST_RETRY;

/// Changes that follow a first one within this time are published in the same snapshot.
pub(super) const SETTLE: Duration = Duration::from_millis(10);
/// How long to wait for a connection to the API server.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// If the first lists have not arrived after this time, the saved snapshot is served.
/// Long enough for every list of a healthy API, and short enough for clients to wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// The API server ends each watch after this time. So a connection that was lost without
/// notice is found soon after it.
pub(super) const WATCH_SECS: u32 = 60;
/// A connection is given up after this time without data. Longer than a healthy watch is
/// silent.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECS as u64 + 10);
/// A watch that is refused reports an error at least every `2 * LAST_RETRY +
/// CONNECT_TIMEOUT`. If it reports none for this time, it works again.
pub(super) const RECOVERED_AFTER: Duration = Duration::from_secs(20);
/// The same for a watch that hangs, which reports an error only after [`READ_TIMEOUT`].
pub(super) const ANSWERS_AFTER: Duration =
    Duration::from_secs(READ_TIMEOUT.as_secs() + 2 * LAST_RETRY.as_secs() + CONNECT_TIMEOUT.as_secs());

/// A name server that is well answers within this.
pub(super) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
