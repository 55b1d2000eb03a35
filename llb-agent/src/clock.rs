// SPDX-License-Identifier: Apache-2.0
//! The only place that reads the monotonic clock. Tasks read the time here and pass
//! it on; code that decides gets it as an argument, so that a test can choose it.
//! Not: the clock of flow entries (`dataplane/packet/clock.rs`), and the age of a saved
//! snapshot (`source/saved.rs`).

#![expect(clippy::disallowed_methods, reason = "everything else gets the time from here")]

use tokio::time::Instant;

/// The monotonic time. In a test with a paused runtime it is the runtime's.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The same as the standard library's type, for code that knows no tokio.
pub(crate) fn now_std() -> std::time::Instant {
    now().into_std()
}

/// The time of day, for texts that people read. It may jump: nothing is decided by it.
pub(crate) fn time_of_day() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
