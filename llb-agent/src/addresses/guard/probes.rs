// SPDX-License-Identifier: Apache-2.0
//! A series of probes for one address, and the frames that it sends. Pure: time
//! comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::super::frame;
use crate::model::{AddressKey, Mac};

/// How many probes are sent before an address counts as free, and the pause
/// after each. RFC 5227 section 1.1 asks for three in 3 to 7 s, with slow
/// wireless bridges in mind; RFC 4862 asks for one and 1 s. A new Service must
/// not wait that long, and on a wired segment an answer takes less than a
/// millisecond. An answer that comes later is noticed as a foreign claim.
pub(in super::super) const PROBES: usize = 3;
pub(in super::super) const PROBE_INTERVAL: Duration = Duration::from_millis(70);

/// What the caller does now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Sends a frame on a link.
    Send {
        /// The link's number.
        index: u32,
        frame: Vec<u8>,
    },
    /// Wakes the reconciler.
    WakeReconciler,
}

/// A link that has a carrier, and on which other hosts can have addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LiveLink {
    pub(super) index: u32,
    pub(super) mac: Mac,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSeries {
    sent: usize,
    pub(super) due: Instant,
}

impl ProbeSeries {
    /// A series whose first probe is due at `start`.
    pub(super) fn new(start: Instant) -> Self {
        Self { sent: 0, due: start }
    }

    /// The probe that is due; `None` if the series is over: all probes were sent
    /// and had their time, or the link is not alive.
    pub(super) fn next_probe(
        &mut self,
        link: Option<&LiveLink>,
        key: &AddressKey,
        now: Instant,
    ) -> Option<Output> {
        let link = link.filter(|_| self.sent < PROBES)?;
        self.sent += 1;
        self.due = now + PROBE_INTERVAL;
        Some(Output::Send { index: link.index, frame: frame::probe(link.mac, key.address) })
    }
}
