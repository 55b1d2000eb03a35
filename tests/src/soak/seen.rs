// SPDX-License-Identifier: Apache-2.0
//! What the two ends of a connection saw.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// What one end saw of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All bytes in order, and a clean end.
    Complete,
    /// A reset, by the other end or by this one.
    Reset,
    /// A clean end after this number of bytes, which is too early.
    Torn(u64),
    /// Anything else, described.
    Wrong(String),
}

impl Seen {
    /// What an end saw overall. The kernel reports an error only once: if sending got the reset, receiving got
    /// only an end.
    pub(super) fn of(sent: io::Result<()>, received: Self) -> Self {
        match (sent, received) {
            (Err(_), Self::Complete | Self::Torn(_)) => Self::Reset,
            (_, received) => received,
        }
    }
}

/// By the number of the connection.
pub(super) type Book = Arc<Mutex<BTreeMap<u64, Seen>>>;

pub(super) fn note(book: &Book, number: u64, seen: Seen) {
    book.lock().unwrap_or_else(PoisonError::into_inner).insert(number, seen);
}
