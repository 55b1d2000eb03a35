// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The maps of the object `packet`: their names and default capacities. Keys and values are in the modules
//! that the table names.
//!
//! | map | kind | key | value | written by |
//! |---|---|---|---|---|
//! | `LINK_COUNTERS` | per-CPU array, one per link | 0 | `counters::LinkCounters` | programs |
//! | `LINK` | array, one per link | 0 | `settings::LinkSettings` | agent |
//! | `SETTINGS` | array | 0 | `settings::Settings` | agent |
//! | `LINKS` | hash | ifindex, 4 bytes | `address::Mac` of that link, and 2 zeros | agent |
//! | `FRONTENDS` | hash | `frontend::FrontendKey` | `frontend::FrontendEntry` | agent |
//! | `VIPS` | hash | `address::Address` of each VIP that has a frontend | 1, 4 bytes | agent |
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
//! | `FAILING` | LRU hash | `backend::BackendId` | `backend::FailureMark` | programs and agent |
//! | `FRAGMENTS` | LRU hash | `conntrack::FragmentKey` | `conntrack::FragmentPorts` | programs |
//! | `BUDGET` | per-CPU array | 0 | tick and count, 4 bytes each | programs |
//! | `SCRATCH` | per-CPU array | 0 | `parse::Packet` and working memory of the programs | programs |
//! | `TRACE` | ring buffer | | `trace::TraceEvent` | programs |
//! | `NOTICES` | ring buffer | | `notice::Notice` | programs |
//! | `EARLY` | ring buffer | | a frame, or `early::Release` | programs |
//!
//! All links share these maps, except `LINK`, `LINK_COUNTERS`, `BUDGET` and `SCRATCH`, which each link has
//! for itself. The default capacities are small, because the kernel allocates most maps as a whole. An agent
//! that forwards packets loads the object with capacities of its own.

use crate::flow_table::lines;
use crate::reason::Reason;

/// Name and capacity of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name in the object.
    pub name: &'static str,
    /// Number of entries, for a per-CPU map those of each CPU. For a ring buffer: bytes.
    pub capacity: usize,
}

const fn map(name: &'static str, capacity: usize) -> Map {
    Map { name, capacity }
}

/// See the table above.
pub const LINK: Map = map("LINK", 1);
/// See the table above.
pub const SETTINGS: Map = map("SETTINGS", 1);
/// More links than a box has, VLANs included.
pub const LINKS: Map = map("LINKS", 64);
/// See the table above.
pub const FRONTENDS: Map = map("FRONTENDS", 1024);
/// No more than frontends.
pub const VIPS: Map = map("VIPS", FRONTENDS.capacity);
/// Chunks of 4 KiB.
pub const MAGLEV: Map = map("MAGLEV", 256);
/// At most 2^20, see [`BackendId`](crate::backend::BackendId).
pub const BACKENDS: Map = map("BACKENDS", 4096);
/// As many as `BACKENDS`.
pub const TRAFFIC: Map = map("TRAFFIC", BACKENDS.capacity);
/// One entry for each reason.
pub const REASONS: Map = map("REASONS", Reason::ALL.len());
/// An upper limit: entries are allocated one by one.
pub const SOURCE_RANGES: Map = map("SOURCE_RANGES", 65_536);
/// As many as the relay remembers.
pub const AFFINITY: Map = map("AFFINITY", 4096);
/// As many as `BACKENDS`.
pub const MEMBERS: Map = map("MEMBERS", BACKENDS.capacity);
/// Lines of a table for `--max-flows` connections.
pub const FLOWS: Map = map("FLOWS", lines(4096) as usize);
/// As many as `FLOWS`.
pub const REPLIES: Map = map("REPLIES", FLOWS.capacity);
/// Flows that are not answered yet. The agent gives them 65,536 entries or more. With 50,000 new flows per second, a flow
/// is evicted after 1.3 s or more, which is longer than a round trip around the world.
pub const PENDING_FLOWS: Map = map("PENDING_FLOWS", 4096);
/// As many as `PENDING_FLOWS`.
pub const PENDING_REPLIES: Map = map("PENDING_REPLIES", PENDING_FLOWS.capacity);
/// As many as `BACKENDS`.
pub const FAILING: Map = map("FAILING", BACKENDS.capacity);
/// Fragmented packets of which a fragment has come.
pub const FRAGMENTS: Map = map("FRAGMENTS", 1024);
/// See the table above.
pub const BUDGET: Map = map("BUDGET", 1);
/// See the table above.
pub const SCRATCH: Map = map("SCRATCH", 1);
/// Bytes: a power of two, and whole pages.
pub const TRACE: Map = map("TRACE", 65_536);
/// Bytes, as `TRACE`. The sender of a packet that finds no room is not told.
pub const NOTICES: Map = map("NOTICES", 65_536);
/// Bytes, as `TRACE`: some 600 fragments at an MTU of 1500 bytes. One that finds no room is not copied.
pub const EARLY: Map = map("EARLY", 1 << 20);

/// All maps, for the agent, which loads the object.
pub const ALL: [Map; 23] = [
    LINK,
    SETTINGS,
    LINKS,
    FRONTENDS,
    VIPS,
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
    EARLY,
];
