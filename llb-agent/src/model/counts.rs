// SPDX-License-Identifier: Apache-2.0
//! What the planes have counted, at one moment.

use std::time::Duration;

use llb_common::reason::Reason;

use super::forwarding::{Backend, Frontend};

/// What was counted since a counter began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// TCP connections, UDP sessions or flows that began.
    pub new: u64,
    /// Bytes from clients. The packet plane counts IP packets, the relay payload.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Connections and datagrams that llb refused.
    pub refused: u64,
    /// Failures of backends.
    pub failures: u64,
    /// IP packets from clients; 0 for the relay.
    pub packets_in: u64,
    /// IP packets to clients.
    pub packets_out: u64,
}

/// How many numbers a [`Counted`] has.
pub const COUNTED: usize = 7;

/// The first so many of them have rates.
pub const RATED: usize = 5;

impl Counted {
    /// Its numbers, in the order of the fields.
    pub fn numbers(self) -> [u64; COUNTED] {
        let Self { new, bytes_in, bytes_out, refused, failures, packets_in, packets_out } = self;
        [new, bytes_in, bytes_out, refused, failures, packets_in, packets_out]
    }

    /// The counts with these numbers.
    pub fn of(numbers: [u64; COUNTED]) -> Self {
        let [new, bytes_in, bytes_out, refused, failures, packets_in, packets_out] = numbers;
        Self { new, bytes_in, bytes_out, refused, failures, packets_in, packets_out }
    }
}

/// A counter of a plane: of a backend of a frontend, or of the frontend itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The number of this counter. No other counter of the last samples has or had it. A new number means that the counter has
    /// started again at 0.
    pub number: u64,
    /// What it belongs to.
    pub frontend: Frontend,
    /// `None`: it counts for the frontend as a whole.
    pub backend: Option<Backend>,
    /// What it has counted.
    pub counted: Counted,
    /// What is open now.
    pub active: u64,
    /// How long the backend takes to accept a connection, smoothed.
    pub connect_time: Option<Duration>,
    /// The round trip time to the backend, smoothed.
    pub round_trip: Option<Duration>,
}

/// How much of something that has a limit is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// What it is.
    pub name: &'static str,
    /// How much is in use.
    pub used: u64,
    /// How much there can be.
    pub most: u64,
}

/// Frames that came in on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkCount {
    /// The link device.
    pub link: String,
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Everything that the planes have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the packet plane: a counter for each backend. The sum of its backends is that of a frontend.
    pub packet: Vec<Counter>,
    /// Of the relay: a counter for each frontend and each of its backends. A frontend's own counter has all but the failures.
    pub relay: Vec<Counter>,
    /// Counters of the relay that several frontends, or several backends, share, because there are too many. They are not in
    /// `relay`.
    pub shared: usize,
    /// The links with a program.
    pub links: Vec<LinkCount>,
    /// Packets that were passed, dropped or noted, over all links.
    pub reasons: Vec<(Reason, u64)>,
    /// The packet plane's maps.
    pub maps: Vec<Fill>,
    /// The relay's limits.
    pub limits: Vec<Fill>,
}
