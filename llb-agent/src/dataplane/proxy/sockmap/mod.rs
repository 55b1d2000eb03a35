// SPDX-License-Identifier: Apache-2.0
//! Lets the kernel move the bytes of an established pair of sockets from one to
//! the other. Everything else stays with the relay, and everything that is not
//! plain data brings the pair back to it.
//!
//! ```text
//!   relay in user space --- after enough small reads -------> kernel moves the bytes
//!        ^                                                         |
//!        `-- FIN, error, no room in the other socket, bulk --------'
//!            after everything that was redirected is written        redirect.rs
//! ```
//!
//! | file | what |
//! |---|---|
//! | `redirect.rs` | one connection, from when the kernel takes it until it comes back |
//! | `pair.rs`, `source.rs`, `quiesce.rs`, `mapped.rs` | puts sockets into the maps and takes them out, without losing a byte |
//! | `watch.rs` | wakes the task of a pair |
//! | `maps.rs`, `btf.rs` | the loaded object, and the offsets of the kernel's fields that it reads |
//! | `setup.rs`, `kernels.rs`, `self_test.rs`, `loopback.rs` | whether this kernel can be trusted |
//! | `error.rs`, `metrics.rs` | what can fail, what is counted |
//!
//! Invariants:
//! - At any time, either the kernel or the relay has the bytes of a stream.
//! - Only what the other socket has room for is redirected. So what is between
//!   the two sockets is bounded and never waits for a peer.
//! - A socket leaves the maps only when its queues in them are empty.
//! - If bytes were taken from a socket and not redirected, this is noticed and
//!   the connection is reset.

mod btf;
mod error;
mod kernels;
mod loopback;
mod mapped;
mod maps;
mod metrics;
#[cfg(test)]
mod numbered_bytes;
mod pair;
mod quiesce;
mod redirect;
mod self_test;
mod setup;
mod source;
#[cfg(test)]
mod tests;
mod watch;

pub(super) use self::error::SockmapError;
pub(super) use self::mapped::{Mapped, ReturnedStream};
pub(super) use self::redirect::Redirection;
pub(super) use self::setup::Sockmap;
