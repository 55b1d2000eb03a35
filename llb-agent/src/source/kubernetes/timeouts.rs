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
/// A connection sends a sign of life after this time of silence, and then again and again.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A connection whose other side acknowledges nothing for this time is closed.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the API server is asked whether it answers.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How long to wait for that answer.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The time to the next question after one that was not answered.
pub(super) const PROBE_AGAIN: Duration = Duration::from_secs(1);
/// The least time between two new lists of everything.
pub(super) const RELIST_INTERVAL: Duration = Duration::from_secs(30);
/// How often the kubeconfig and the files that it names are read again.
pub(super) const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// The least time between two runs of the command that gives the credentials, or between two new connections because the
/// API server refuses them.
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_secs(30);
/// Credentials with an end are renewed so long before it, or after half of their time if that is later.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// How often the name of the API server is resolved.
pub(super) const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// An address that the name no longer leads to stays closed to Services for this time: name servers that
/// balance load give another part of the addresses each time.
pub(super) const RESOLVED_FOR: Duration = Duration::from_secs(600);
/// How often the ranges of ClusterIPs are read.
pub(super) const RANGES_INTERVAL: Duration = Duration::from_secs(60);
/// The API server ends each watch after this time.
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
