// SPDX-License-Identifier: Apache-2.0
//! How long the parts of the source wait. They depend on each other, so they are
//! in one place.

use std::time::Duration;

use crate::source::retries::LAST_RETRY;

/// Changes that come within this time after one another make one snapshot.
pub(super) const SETTLE: Duration = Duration::from_millis(10);
/// A server that says nothing for so long is not there.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A start that has no whole list for so long serves the saved snapshot: long
/// enough for any list of a healthy API, short beside a client's patience.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// The API server ends each watch after this time, so that a connection which
/// silently died is noticed soon after it.
pub(super) const WATCH_SECS: u32 = 60;
/// Nothing was read for so long: longer than any healthy watch is silent.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECS as u64 + 10);
/// A watch that is refused reports at least every `2 * LAST_RETRY + CONNECT_TIMEOUT`;
/// silence for longer means that it works again.
pub(super) const RECOVERED_AFTER: Duration = Duration::from_secs(20);
/// The same for one that hangs: it reports only after the time-out.
pub(super) const ANSWERS_AFTER: Duration =
    Duration::from_secs(READ_TIMEOUT.as_secs() + 2 * LAST_RETRY.as_secs() + CONNECT_TIMEOUT.as_secs());

/// A name server that is well answers within this.
pub(super) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
