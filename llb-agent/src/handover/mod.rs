// SPDX-License-Identifier: Apache-2.0
//! Restarts without a gap: a new agent takes over from the running one. This
//! folder has their conversation. `agent` collects what is handed over, and
//! takes it into use.
//!
//! ```text
//!   running agent (predecessor)                 new agent (successor)
//!     serves; <state-dir>/handover.sock  <----  Hello: version, flags          connects, because the state folder is locked
//!     may it take over?                  ---->  Welcome, or Refused
//!     serves                                    waits for its first whole snapshot
//!     changes nothing from here          <----  Take
//!     still accepts                      ---->  Sockets: listeners, UDP, admin endpoint
//!                                               accepts, too; runs its first round
//!     gives up its locks, then drains    <----  Serving
//!                                        ---->  Locks
//!     ends                                      is the agent
//! ```
//!
//! Both processes have the same sockets (`SCM_RIGHTS`, unix(7)), so the queues of
//! waiting connections stay: no connection is reset, and at any moment one of
//! them listens. If the successor had its own listeners beside the old ones
//! (`SO_REUSEPORT`), connections that reach the old ones between the last accept
//! and the close would be lost, unless `net.ipv4.tcp_migrate_req` is set.
//!
//! Invariant: at any time at most one agent changes addresses and statuses.
//! Until the predecessor has sent the locks it can go on as before, and does so
//! if the successor ends or does not answer within [`SERVING_LIMIT`]. A
//! successor that loses its predecessor goes on only if it gets the lock of the
//! state folder, because then the predecessor has ended.

mod channel;
mod error;
mod message;
mod predecessor;
mod socket;
mod successor;

pub use self::error::HandoverError;
pub use self::message::{Descriptors, Item, SERVING_LIMIT, Setup};
pub use self::predecessor::{Successors, Takeover};
pub use self::successor::{Inheritance, Predecessor, Start, Taken, start};
