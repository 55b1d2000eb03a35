// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Which backends are failing. The programs note only which ones refused or did not answer a connection; an
//! answer takes that back. The agent tests these backends and says which are dead. A connection that is not
//! answered takes no backend out: its SYN may be lost or wrong. What becomes of that connection is in
//! `reselect.rs`.

use llb_common::backend::{BackendId, FailureKind, FailureMark};
use llb_common::conntrack::ReplyEntry;
use llb_common::time::Tick;

use crate::decision::{AVOIDS_FAILING, AVOIDS_REFUSING, AVOIDS_SUSPECTED};
use crate::maps::FAILING;
use crate::outcome::Done;

/// Whether a new flow should get another backend, if there is one. `avoids` is
/// [`UnassignedFlow::avoids`](crate::decision::UnassignedFlow), and not 0.
#[inline(always)]
pub(crate) fn is_avoided(backend: BackendId, avoids: u32, now: Tick) -> bool {
    judge_mark(backend.0, avoids, now).is_yes()
}

/// A global function, see `flow_table.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_mark(backend: u32, avoids: u32, now: Tick) -> Done {
    let Some(mark) = mark_of(BackendId(backend)) else { return Done::No };
    Done::from(match avoids {
        AVOIDS_SUSPECTED => mark.is_suspected(now),
        AVOIDS_REFUSING => mark.is_refusing(now),
        _ => mark.is_avoided(now),
    })
}

/// What was noted of a backend that failed, if it has not answered since.
#[inline(always)]
fn mark_of(backend: BackendId) -> Option<FailureMark> {
    // SAFETY: the value is read at once. In an LRU map the kernel may give its memory to another key
    // meanwhile; then one flow sees a wrong mark, which is harmless.
    unsafe { FAILING.get(&backend) }.copied()
}

/// The backend refused a connection, or did not answer one: the agent should test it.
#[inline(always)]
pub(crate) fn suspect(backend: BackendId, found: FailureKind, now: Tick) {
    let _ = note_failure(backend.0, u32::from(found == FailureKind::Refused), now);
}

/// A global function, see `flow_table.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_failure(backend: u32, refuses: u32, now: Tick) -> Done {
    let backend = BackendId(backend);
    let found = if refuses != 0 { FailureKind::Refused } else { FailureKind::Unanswered };
    let Some(mark) = FailureMark::after(mark_of(backend), found, now) else { return Done::No };
    // If there is no room, the next flow finds out by itself.
    Done::from(FAILING.insert(&backend, &mark, 0).is_ok())
}

/// The backend answered.
#[inline(always)]
pub(crate) fn clear(backend: &BackendId) {
    if mark_of(*backend).is_some() {
        let _ = FAILING.remove(backend);
    }
}

/// Whether a SYN that comes now repeats one that the backend should have answered by now.
///
/// Not in the tick of the first SYN: a second one so soon may be a copy that the network made. This limit does
/// not hold if the backend has refused the first one, or is dead.
#[inline(always)]
pub(crate) fn is_unanswered(reply: &ReplyEntry, now: Tick) -> bool {
    let is_due = reply.used < now || reply.refused != 0;
    reply.seen == 0 && (is_due || is_avoided(reply.backend, AVOIDS_FAILING, now))
}
