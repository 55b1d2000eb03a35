// SPDX-License-Identifier: Apache-2.0
//! The routers that lead to clients, with `--return-path routes`: their MAC addresses must be known, since a packet
//! program can't wait for them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::time::Instant;

use crate::clock;
use crate::error_chain::ErrorChain;
use crate::netlink::Connection;

/// A machine can have a million routes. To read them all takes at most one part in this many of the time.
const SHARE: u32 = 50;

/// The gateways of all routes, with the interface indexes of their links.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    /// Whether they are wanted at all.
    are_wanted: bool,
    all: BTreeSet<(u32, IpAddr)>,
    is_read: bool,
    due: Option<Instant>,
}

impl Gateways {
    pub(super) fn new(are_wanted: bool) -> Self {
        Self { are_wanted, ..Self::default() }
    }

    pub(super) fn all(&self) -> &BTreeSet<(u32, IpAddr)> {
        &self.all
    }

    /// Whether [`Gateways::all`] are all that are wanted. Until they have been read, any neighbour may be one of them.
    pub(super) fn are_known(&self) -> bool {
        self.is_read || !self.are_wanted
    }

    /// Reads them again, if it is time. If they can't be read, those that are known count.
    pub(super) async fn refresh(&mut self, connection: &mut Connection) {
        let begin = clock::now();
        if !self.are_wanted || self.due.is_some_and(|due| begin < due) {
            return;
        }
        match connection.gateways_by_link().await {
            Ok(all) => (self.all, self.is_read) = (all, true),
            // Routes may change faster than they can be read.
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "cannot read the routes; the known gateways count");
            }
        }
        let end = clock::now();
        self.due = Some(end + (end - begin) * SHARE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gateways_are_known_when_they_have_been_read_or_are_not_wanted() {
        assert!(Gateways::new(false).are_known());
        let mut wanted = Gateways::new(true);
        assert!(!wanted.are_known());
        wanted.refresh(&mut Connection::open().unwrap()).await;
        assert!(wanted.are_known());
    }
}
