// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Frontends as the packet plane finds them, and where their Maglev tables are. How a table is filled is in
//! `maglev.rs`.
//!
//! The backends of a frontend change with one write of its [`FrontendEntry`]. First the new table is written
//! into free chunks. Then the entry names it as `table`, the old one as `previous`, and the time of the
//! change. The kernel replaces a value as a whole, so no packet sees half a change. A chunk may be used again
//! one second after the last entry that names it is gone.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, WirePort};
use crate::time::{Tick, elapsed_secs};

/// A protocol that frontends serve, by its IANA number.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;

/// The key of a frontend, VIP, port and protocol: 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct FrontendKey {
    /// The VIP.
    pub vip: Address,
    /// The port.
    pub port: WirePort,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zeros.
    pub padding: [u8; 5],
}

const _: () = assert!(size_of::<FrontendKey>() == 24);

impl FrontendKey {
    /// The key of a frontend. It is put together from words, because in eBPF the compiler would call a
    /// function to clear five bytes of padding.
    #[inline(always)]
    pub fn new(vip: Address, port: WirePort, protocol: u8) -> Self {
        let rest = [port.wire(), u16::from_ne_bytes([protocol, 0]), 0, 0];
        let [high, low] = vip.words();
        bytemuck::cast([high, low, bytemuck::cast(rest)])
    }
}

/// [`FrontendEntry::flags`]: mode DSR, in which only MAC addresses and the time to live are rewritten. Without it
/// the mode is NAT, in which IP addresses and ports are rewritten, too.
pub const DSR: u32 = 1;
/// [`FrontendEntry::flags`]: only clients in the source ranges of the Service (map `SOURCE_RANGES`) are
/// served.
pub const RESTRICTED: u32 = 1 << 1;
/// [`FrontendEntry::flags`]: TCP packets of unknown flows that open no connection pass to the kernel: the
/// relay of this host still has connections at this frontend.
pub const OPENINGS_ONLY: u32 = 1 << 2;
/// [`FrontendEntry::flags`]: all packets of unknown flows pass to the kernel: the frontend ends, or another
/// plane serves it.
pub const KNOWN_FLOWS_ONLY: u32 = 1 << 3;

/// [`FrontendEntry::flags`]: in mode DSR, a flow whose first packet a Node sends back begins in mode NAT. Only
/// where Pods do not see the client's address in mode DSR either.
pub const NAT_INSTEAD: u32 = 1 << 4;

/// The largest time to live of the packets that Nodes get in mode DSR. A Node without a rule for the VIP routes
/// such a packet back, and every router on its way lowers the time to live. So a packet with less than this was
/// sent to a Node before. This is far more than any way inside a cluster needs, and far less than is left of the
/// 64 or more that clients begin with.
pub const DSR_TIME_TO_LIVE: u8 = 16;

/// What the programs know of a frontend: 40 bytes, native byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FrontendEntry {
    /// Id of the frontend, not 0. It is counted up, so that no other frontend gets it while flows of this one
    /// may be remembered.
    pub id: u32,
    /// Number of the Service. Source ranges and affinity are kept for the whole Service.
    pub service: u32,
    /// Bits: [`DSR`], [`RESTRICTED`], [`OPENINGS_ONLY`], [`KNOWN_FLOWS_ONLY`], [`NAT_INSTEAD`].
    pub flags: u32,
    /// A client that begins another flow within this time gets the same host; 0: no affinity.
    pub affinity_secs: u32,
    /// The Maglev table for new flows. If it has no slots, there are no backends, and packets pass to the
    /// kernel, which refuses them as for any closed port.
    pub table: MaglevTable,
    /// The Maglev table before `changed`.
    pub previous: MaglevTable,
    /// When `previous` was replaced by `table`.
    pub changed: Tick,
    /// Zeros.
    pub padding: u32,
}

const _: () = assert!(size_of::<FrontendEntry>() == 40);

/// For this long after a change, a TCP packet of an unknown flow that opens no connection goes where it would
/// have gone before the change. This is longer than most connections last, and longer than a neighbour needs
/// to take over a VIP.
pub const PREVIOUS_TABLE_SECS: u32 = 120;

impl FrontendEntry {
    /// The Maglev table for a packet of an unknown flow. `opens`: the packet begins the flow.
    #[inline(always)]
    pub const fn table_for(&self, opens: bool, now: Tick) -> MaglevTable {
        let is_recent = elapsed_secs(self.changed, now) < PREVIOUS_TABLE_SECS;
        if !opens && self.previous.slots != 0 && is_recent { self.previous } else { self.table }
    }
}

/// Where a Maglev table is in the array of [`Chunk`]s: 8 bytes, native byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MaglevTable {
    /// Number of its first chunk. The others follow it.
    pub first_chunk: u32,
    /// Number of its slots, see [`slots_for`](crate::maglev::slots_for).
    pub slots: u32,
}

/// Slots in a chunk: a table of the smallest size (1,021 slots) fills one.
pub const CHUNK_SLOTS: usize = 1024;

/// A part of a Maglev table, 4096 bytes. Each slot is a [`BackendId`](crate::backend::BackendId).
pub type Chunk = [u32; CHUNK_SLOTS];

impl MaglevTable {
    /// Chunk, and position in the chunk, of the slot for a flow with this hash; or of the slot `behind` slots
    /// after it.
    #[inline(always)]
    pub const fn place(self, hash: u64, behind: u64) -> (u32, usize) {
        let slot = if self.slots == 0 { 0 } else { hash.wrapping_add(behind) % self.slots as u64 };
        let chunk = (slot / CHUNK_SLOTS as u64) as u32;
        (self.first_chunk.wrapping_add(chunk), slot as usize % CHUNK_SLOTS)
    }

    /// Number of its chunks.
    pub const fn chunks(self) -> u32 {
        self.slots.div_ceil(CHUNK_SLOTS as u32)
    }
}

/// A key of the longest-prefix-match trie `SOURCE_RANGES`: 24 bytes. The value is one byte: 1 if clients in
/// this range are served, 0 if they are not, as part of a larger range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct SourceRangeKey {
    /// How many bits of the other fields must match, native byte order: 32 for `service`, and the prefix
    /// length of `address` (for IPv4 96 more).
    pub prefix_bits: u32,
    /// [`FrontendEntry::service`].
    pub service: u32,
    /// The address in network order.
    pub address: [u32; 4],
}

const _: () = assert!(size_of::<SourceRangeKey>() == 24);

impl SourceRangeKey {
    /// The key of the range of addresses that share the first `prefix_length` bits of `address`. For IPv4 the
    /// length is at most 32.
    pub const fn range(service: u32, address: Address, prefix_length: u8) -> Self {
        let mapped_bits = if address.is_v4() { 96 } else { 0 };
        Self { prefix_bits: 32 + mapped_bits + prefix_length as u32, ..Self::client(service, address) }
    }

    /// The key to look up a client with.
    #[inline(always)]
    pub const fn client(service: u32, address: Address) -> Self {
        let [high, low] = address.words();
        let ([a, b], [c, d]) = (halves(high), halves(low));
        Self { prefix_bits: 32 + 128, service, address: [a, b, c, d] }
    }
}

/// The two halves of a word, in the order of memory.
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// The key of an [`AffinityEntry`]: 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct AffinityKey {
    /// Address of the client.
    pub client: Address,
    /// [`FrontendEntry::service`], so that affinity holds across all ports of a Service.
    pub service: u32,
    /// Zeros.
    pub padding: u32,
}

/// Which host the last flow of a client went to: 8 bytes, native byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct AffinityEntry {
    /// [`BackendEntry::host`](crate::backend::BackendEntry::host).
    pub host: u32,
    /// When that flow began.
    pub used: Tick,
}

/// The key of map `MEMBERS`, whose value is the [`BackendId`](crate::backend::BackendId) that a host has in a
/// frontend: 8 bytes, native byte order. Only frontends with affinity have entries there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct MemberKey {
    /// [`FrontendEntry::id`].
    pub frontend: u32,
    /// [`BackendEntry::host`](crate::backend::BackendEntry::host).
    pub host: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_flows_use_the_previous_table_and_only_for_a_while() {
        let table = |slots| MaglevTable { first_chunk: 0, slots };
        let entry =
            FrontendEntry { table: table(2), previous: table(1), changed: 1000, ..Zeroable::zeroed() };
        let chosen = |opens, now| entry.table_for(opens, now).slots;
        assert_eq!([chosen(true, 1001), chosen(false, 1001), chosen(false, 1120)], [2, 1, 2]);
        assert_eq!(FrontendEntry { previous: table(0), ..entry }.table_for(false, 1001).slots, 2);
    }

    #[test]
    fn slots_are_found_in_their_chunks() {
        let table = MaglevTable { first_chunk: 7, slots: 16_381 };
        assert_eq!(table.chunks(), 16);
        assert_eq!(table.place(16_381 + 1025, 0), (8, 1));
        assert_eq!(table.place(16_380, 1), (7, 0));
        assert_eq!(MaglevTable::default().place(9, 9), (0, 0));
    }

    #[test]
    fn an_ipv4_range_is_a_range_of_mapped_addresses() {
        let address = Address::new([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 0]);
        assert_eq!(SourceRangeKey::range(1, address, 24).prefix_bits, 32 + 96 + 24);
        let key = SourceRangeKey::client(1, address);
        assert_eq!(bytemuck::bytes_of(&key)[8..], address.bytes());
    }
}
