// SPDX-License-Identifier: Apache-2.0
//! Restarts without a gap: a new agent takes the place of the running one. Here
//! is the conversation of the two; what is handed over is put together, and
//! taken into use, in `agent`.
//!
//! ```text
//!   running agent (predecessor)                 new agent (successor)
//!     serves; <state-dir>/handover.sock  <----  Hello: version, links          connects because the state folder is locked
//!     is it one of mine?                 ---->  Welcome, or Refused
//!     serves                                    waits for its first whole snapshot
//!     changes nothing any more           <----  Take
//!     goes on accepting                  ---->  Sockets: listeners, UDP, admin endpoint
//!                                               accepts as well; first whole round
//!     gives up its locks, then drains    <----  Serving
//!                                        ---->  Locks
//!     ends                                      is the agent
//! ```
//!
//! The sockets are the same ones in both processes (`SCM_RIGHTS`, unix(7)), so
//! their queues of connections stay: no connection is reset, and no moment
//! passes in which nobody listens. Listeners of its own beside the old ones
//! (`SO_REUSEPORT`) would lose what comes in at those between the last accept
//! and their close, unless `net.ipv4.tcp_migrate_req` is set.
//!
//! Invariants: until the locks are sent, the predecessor can go on as before;
//! it does so when the successor is gone or says nothing for [`SERVING_LIMIT`].
//! A successor that loses its predecessor goes on only if it gets the lock of
//! the state folder: then the predecessor is dead. So there is always exactly
//! one that changes addresses and statuses.

mod channel;
mod error;
mod message;
mod predecessor;
mod socket;
mod successor;

pub use self::error::HandoverError;
pub use self::message::{Goods, Item, SERVING_LIMIT};
pub use self::predecessor::{Successors, Takeover};
pub use self::successor::{Inheritance, Predecessor, Start, Taken, start};
