// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The maps of the object `packet`: names, and how many entries they have
//! where the agent says nothing. Keys and values are in the modules named.
//!
//! | map | kind | key | value | written by |
//! |---|---|---|---|---|
//! | `LINK_COUNTERS` | per-CPU array, one per link | 0 | `counters::LinkCounters` | programs |
//! | `LINK` | array, one per link | 0 | `settings::LinkSettings` | agent |
//! | `SETTINGS` | array | 0 | `settings::Settings` | agent |
//! | `LINKS` | hash | ifindex, 4 bytes | `address::Mac` of that link, and 2 zeros | agent |
//! | `FRONTENDS` | hash | `frontend::FrontendKey` | `frontend::FrontendEntry` | agent |
//! | `MAGLEV` | array | number of the chunk | `frontend::Chunk` | agent |
//! | `BACKENDS` | array | `BackendId::index` | `backend::BackendEntry` | agent |
//! | `TRAFFIC` | per-CPU array | `BackendId::index` | `counters::Traffic` | programs |
//! | `REASONS` | per-CPU array | `reason::Reason` | count, 8 bytes | programs |
//! | `SOURCE_RANGES` | LPM trie | `frontend::SourceRangeKey` | one byte | agent |
//! | `AFFINITY` | LRU hash | `frontend::AffinityKey` | `frontend::AffinityEntry` | programs |
//! | `MEMBERS` | hash | `frontend::MemberKey` | `backend::BackendId` | agent |
//! | `FLOWS` | array, a `flow_table` | number of the line | `conntrack::ForwardKey` and `ForwardEntry` | programs; agent removes |
//! | `REPLIES` | array, a `flow_table` | number of the line | `conntrack::ReplyKey` and `ReplyEntry` | programs; agent removes |
//! | `PENDING_FLOWS` | LRU hash | `conntrack::ForwardKey` | `conntrack::ForwardEntry` | programs |
//! | `PENDING_REPLIES` | LRU hash | `conntrack::ReplyKey` | `conntrack::ReplyEntry` | programs |
//! | `FAILING` | LRU hash | `backend::BackendId` | `time::Tick` when it failed last | programs |
//! | `FRAGMENTS` | LRU hash | `conntrack::FragmentKey` | `conntrack::FragmentPorts` | programs |
//! | `BUDGET` | per-CPU array | 0 | tick and count, 4 bytes each | programs |
//! | `SCRATCH` | per-CPU array | 0 | `parse::Packet` and what is decided | programs |
//! | `TRACE` | ring buffer | | `trace::TraceEvent` | programs |
//! | `NOTICES` | ring buffer | | `notice::Notice` | programs |
//!
//! All but `LINK`, `LINK_COUNTERS`, `BUDGET` and `SCRATCH` are shared by all links. The capacities are those of a box that forwards nothing yet, since
//! the kernel allocates most of them at once; an agent that forwards loads
//! the object with its own.

use crate::flow_table::lines;
use crate::reason::Reason;

/// Name and capacity of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name in the object.
    pub name: &'static str,
    /// Its entries, per CPU where it is per CPU; bytes of the ring buffer.
    pub capacity: usize,
}

const fn map(name: &'static str, capacity: usize) -> Map {
    Map { name, capacity }
}

/// See the table above.
pub const LINK: Map = map("LINK", 1);
/// See the table above.
pub const SETTINGS: Map = map("SETTINGS", 1);
/// More links than a box with VLANs has.
pub const LINKS: Map = map("LINKS", 64);
/// See the table above.
pub const FRONTENDS: Map = map("FRONTENDS", 1024);
/// 4 KiB each.
pub const MAGLEV: Map = map("MAGLEV", 256);
/// At most 2^20, see [`BackendId`](crate::backend::BackendId).
pub const BACKENDS: Map = map("BACKENDS", 4096);
/// As many as `BACKENDS`.
pub const TRAFFIC: Map = map("TRAFFIC", BACKENDS.capacity);
/// One for each reason.
pub const REASONS: Map = map("REASONS", Reason::ALL.len());
/// Allocated as they come.
pub const SOURCE_RANGES: Map = map("SOURCE_RANGES", 65_536);
/// As the relay's memory of clients.
pub const AFFINITY: Map = map("AFFINITY", 4096);
/// As many as `BACKENDS`.
pub const MEMBERS: Map = map("MEMBERS", BACKENDS.capacity);
/// Lines of a table for `--max-flows` connections.
pub const FLOWS: Map = map("FLOWS", lines(4096) as usize);
/// As many as `FLOWS`.
pub const REPLIES: Map = map("REPLIES", FLOWS.capacity);
/// Bound of flows that are not yet answered; at 50,000 new ones in a second,
/// 65,536 of them last longer than a round trip around the world.
pub const PENDING_FLOWS: Map = map("PENDING_FLOWS", 4096);
/// As many as `PENDING_FLOWS`.
pub const PENDING_REPLIES: Map = map("PENDING_REPLIES", PENDING_FLOWS.capacity);
/// As many as `BACKENDS`.
pub const FAILING: Map = map("FAILING", BACKENDS.capacity);
/// Packets in fragments that are on their way at one time.
pub const FRAGMENTS: Map = map("FRAGMENTS", 1024);
/// See the table above.
pub const BUDGET: Map = map("BUDGET", 1);
/// See the table above.
pub const SCRATCH: Map = map("SCRATCH", 1);
/// Bytes, a power of two of pages.
pub const TRACE: Map = map("TRACE", 65_536);
/// As `TRACE`; what does not fit is not answered.
pub const NOTICES: Map = map("NOTICES", 65_536);

/// All, for whoever loads the object.
pub const ALL: [Map; 21] = [
    LINK,
    SETTINGS,
    LINKS,
    FRONTENDS,
    MAGLEV,
    BACKENDS,
    TRAFFIC,
    REASONS,
    SOURCE_RANGES,
    AFFINITY,
    MEMBERS,
    FLOWS,
    REPLIES,
    PENDING_FLOWS,
    PENDING_REPLIES,
    FAILING,
    FRAGMENTS,
    BUDGET,
    SCRATCH,
    TRACE,
    NOTICES,
];
