// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Frontends as the packet plane finds them, and where their Maglev tables
//! are. How a table is filled is in `maglev.rs`.
//!
//! A change of a frontend's backends is one write of its [`FrontendEntry`]:
//! the new table is first written into free chunks, then the entry names it as
//! `table`, the old one as `previous`, and the time. The kernel replaces a
//! value as a whole, so no packet sees half of it. Chunks may be used again
//! once no entry has named them for a second.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, WirePort};
use crate::time::{Tick, elapsed_secs};

/// IANA protocol numbers of what frontends serve.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;

/// VIP, port and protocol: 24 bytes.
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
    /// The key of a frontend. It is made of words, since eBPF calls a function
    /// for padding of five bytes.
    #[inline(always)]
    pub fn new(vip: Address, port: WirePort, protocol: u8) -> Self {
        let rest = [port.wire(), u16::from_ne_bytes([protocol, 0]), 0, 0];
        let [high, low] = vip.words();
        bytemuck::cast([high, low, bytemuck::cast(rest)])
    }
}

/// [`FrontendEntry::flags`]: only the destination MAC address is rewritten
/// (DSR); without it, addresses and ports are (NAT).
pub const DSR: u32 = 1;
/// [`FrontendEntry::flags`]: only clients in `SOURCE_RANGES` of the Service may come.
pub const RESTRICTED: u32 = 1 << 1;
/// [`FrontendEntry::flags`]: TCP packets that begin no connection and belong to
/// no known flow pass: the relay of the host still has connections here.
pub const OPENINGS_ONLY: u32 = 1 << 2;
/// [`FrontendEntry::flags`]: packets of flows that are not known pass: the
/// frontend ends, or another plane serves it.
pub const KNOWN_FLOWS_ONLY: u32 = 1 << 3;

/// What is known of a frontend: 40 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FrontendEntry {
    /// Never 0, and never given to another frontend while flows of this one
    /// may be remembered: count up.
    pub id: u32,
    /// Its Service: what source ranges and affinity are kept by.
    pub service: u32,
    /// [`DSR`], [`RESTRICTED`], [`OPENINGS_ONLY`], [`KNOWN_FLOWS_ONLY`].
    pub flags: u32,
    /// A client that comes back within this time gets the host it had; 0: no affinity.
    pub affinity_secs: u32,
    /// Whom new flows go to. Without slots there are no backends, and packets
    /// pass: the kernel refuses them, as for any closed port.
    pub table: MaglevTable,
    /// Whom they went to before `changed`.
    pub previous: MaglevTable,
    /// When `previous` was replaced by `table`.
    pub changed: Tick,
    /// Zeros.
    pub padding: u32,
}

const _: () = assert!(size_of::<FrontendEntry>() == 40);

/// For this long after a change, a TCP packet that opens no connection and
/// belongs to no known flow goes where it would have gone before. Longer than
/// most connections last, and than a neighbour takes to take a VIP over.
pub const PREVIOUS_TABLE_SECS: u32 = 120;

impl FrontendEntry {
    /// The table for a flow that is not known. `opens`: the packet begins it.
    #[inline(always)]
    pub const fn table_for(&self, opens: bool, now: Tick) -> MaglevTable {
        let is_recent = elapsed_secs(self.changed, now) < PREVIOUS_TABLE_SECS;
        if !opens && self.previous.slots != 0 && is_recent { self.previous } else { self.table }
    }
}

/// Where a Maglev table is in the array of [`Chunk`]s: 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MaglevTable {
    /// Its first chunk; it fills that and those behind it.
    pub first_chunk: u32,
    /// How many slots it has, see [`slots_for`](crate::maglev::slots_for).
    pub slots: u32,
}

/// Slots in a chunk: a table of the smallest size (1,021 slots) fills one.
pub const CHUNK_SLOTS: usize = 1024;

/// A part of a Maglev table: each slot is a [`BackendId`](crate::backend::BackendId).
pub type Chunk = [u32; CHUNK_SLOTS];

impl MaglevTable {
    /// Chunk and position in it of the slot that a flow of this hash has,
    /// or, `behind` it, of the next ones.
    #[inline(always)]
    pub const fn place(self, hash: u64, behind: u64) -> (u32, usize) {
        let slot = if self.slots == 0 { 0 } else { hash.wrapping_add(behind) % self.slots as u64 };
        let chunk = (slot / CHUNK_SLOTS as u64) as u32;
        (self.first_chunk.wrapping_add(chunk), slot as usize % CHUNK_SLOTS)
    }

    /// How many chunks it fills.
    pub const fn chunks(self) -> u32 {
        self.slots.div_ceil(CHUNK_SLOTS as u32)
    }
}

/// Key of the clients that may come, a longest-prefix-match trie: 24 bytes.
/// The value is one byte: 1 for those that may, 0 for a part that may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct SourceRangeKey {
    /// Bits of what follows that must match, in native byte order:
    /// 32 for `service`, and the prefix length of `address` (IPv4: 96 more).
    pub prefix_bits: u32,
    /// [`FrontendEntry::service`].
    pub service: u32,
    /// Network order.
    pub address: [u32; 4],
}

const _: () = assert!(size_of::<SourceRangeKey>() == 24);

impl SourceRangeKey {
    /// Addresses that share the first `prefix_length` bits of `address`; an
    /// IPv4 prefix has up to 32.
    pub const fn range(service: u32, address: Address, prefix_length: u8) -> Self {
        let mapped_bits = if address.is_v4() { 96 } else { 0 };
        Self { prefix_bits: 32 + mapped_bits + prefix_length as u32, ..Self::client(service, address) }
    }

    /// What is looked up for a client.
    #[inline(always)]
    pub const fn client(service: u32, address: Address) -> Self {
        let [high, low] = address.words();
        let ([a, b], [c, d]) = (halves(high), halves(low));
        Self { prefix_bits: 32 + 128, service, address: [a, b, c, d] }
    }
}

/// In the order of memory.
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// Key of the clients' hosts, for affinity: 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct AffinityKey {
    /// The client.
    pub client: Address,
    /// [`FrontendEntry::service`], so that it holds across its ports.
    pub service: u32,
    /// Zeros.
    pub padding: u32,
}

/// Which host a client had last: 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct AffinityEntry {
    /// [`BackendEntry::host`](crate::backend::BackendEntry::host).
    pub host: u32,
    /// When its last flow began.
    pub used: Tick,
}

/// Key of the [`BackendId`](crate::backend::BackendId) (4 bytes) that a host
/// has for a frontend; needed for frontends with affinity only.
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
    fn the_previous_table_is_for_old_flows_and_for_a_while() {
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
