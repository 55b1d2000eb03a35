// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Which backends are failing: they refused a new connection, or did not answer one. New flows go elsewhere
//! for [`FAILING_SECS`]. What becomes of the connection that found it out is in `reselect.rs`.

use llb_common::backend::{BackendId, FAILING_SECS, FailureKind, FailureMark};
use llb_common::conntrack::ReplyEntry;
use llb_common::time::{Tick, elapsed_secs};

use crate::maps::FAILING;

/// Whether new flows should get another backend, if there is one.
#[inline(always)]
pub(crate) fn is_failing(backend: BackendId, now: Tick) -> bool {
    // SAFETY: the value is read at once. In an LRU map the kernel may give its memory to another key
    // meanwhile; then one flow sees a wrong time, which is harmless.
    unsafe { FAILING.get(&backend) }.is_some_and(|failed| elapsed_secs(failed.tick(), now) < FAILING_SECS)
}

/// Whether a backend has failed and no answer of it was seen since, however long ago that was.
#[inline(always)]
fn has_failed(backend: &BackendId) -> bool {
    // SAFETY: the value behind the reference is not read.
    unsafe { FAILING.get(backend) }.is_some()
}

/// A new flow goes to this backend. If the backend failed before, this flow tests it: the others go elsewhere
/// for another [`FAILING_SECS`].
#[inline(always)]
pub(crate) fn begin_test(backend: BackendId, now: Tick) {
    if has_failed(&backend) {
        mark(backend, FailureKind::Tested, now);
    }
}

/// The backend refused a connection, or did not answer one. The agent reads how.
#[inline(always)]
pub(crate) fn mark(backend: BackendId, kind: FailureKind, now: Tick) {
    // If there is no room, the next flow finds out by itself.
    let _ = FAILING.insert(&backend, &FailureMark::new(kind, now), 0);
}

/// The backend answered.
#[inline(always)]
pub(crate) fn clear(backend: &BackendId) {
    if has_failed(backend) {
        let _ = FAILING.remove(backend);
    }
}

/// Whether a SYN that comes now repeats one that the backend should have answered by now.
///
/// Not in the tick of the first SYN: a second one so soon may be a copy that the network made, or a client's
/// attempt to make good backends look bad. From a backend that is failing no answer is expected, so this
/// limit does not hold.
#[inline(always)]
pub(crate) fn is_unanswered(reply: &ReplyEntry, now: Tick) -> bool {
    reply.seen == 0 && (reply.used < now || is_failing(reply.backend, now))
}
