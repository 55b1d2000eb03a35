// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Backends as the packet plane reaches them. Each belongs to one frontend. Flow entries name their backend
//! by its id.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac, WirePort};
use crate::time::Tick;

/// Names a backend: 4 bytes, native byte order. The lower 20 bits are its index in the array of
/// [`BackendEntry`]s, the upper 12 its generation: which of the backends that had this index it is. 0 stands
/// for no backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct BackendId(pub u32);

/// Bits of a [`BackendId`] that are the index.
const INDEX_BITS: u32 = 20;

impl BackendId {
    /// The id of a backend at `index` (less than 2^20). When an index is used again, it gets the next
    /// `generation` (1 to 4095, then 1 again), so that flows of the old backend do not go to the new one.
    pub const fn new(index: u32, generation: u16) -> Self {
        Self((generation as u32) << INDEX_BITS | index & ((1 << INDEX_BITS) - 1))
    }

    /// The index of the backend in the maps `BACKENDS` and `TRAFFIC`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    /// Which of the backends that had this index it is.
    pub const fn generation(self) -> u16 {
        (self.0 >> INDEX_BITS) as u16
    }
}

/// [`BackendEntry::state`]: the backend gets new flows. Zero is not a state.
pub const ACTIVE: u8 = 1;
/// [`BackendEntry::state`]: the backend keeps its flows but gets no new ones. A backend that can't be reached
/// now is draining too, without a MAC address: what its flows send is dropped until it is back.
pub const DRAINING: u8 = 2;
/// [`BackendEntry::state`]: the backend gets no packets; its flows begin anew with other backends.
pub const DEAD: u8 = 3;

/// For this long after a backend refused a new connection, or did not answer one, new connections go
/// elsewhere. Then one connection tests it. The time is so short that a backend that recovers is soon used
/// again, and so long that few connections lose their first SYN to a test.
pub const FAILING_SECS: u32 = 10;

/// How a backend failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FailureKind {
    /// It has not answered a new connection when the client repeated its SYN.
    Unanswered = 0,
    /// It failed before, and a new connection tests it.
    Tested = 1,
    /// It refused a new connection.
    Refused = 2,
}

/// When a backend failed last, and how: 4 bytes, native byte order. The upper two bits are the [`FailureKind`], the
/// others the [`Tick`], which has room for 36 years since the start of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct FailureMark(pub u32);

/// Bits of a [`FailureMark`] that are the tick.
const TICK_BITS: u32 = 30;

impl FailureMark {
    /// A failure at this time.
    #[inline(always)]
    pub const fn new(kind: FailureKind, now: Tick) -> Self {
        Self((kind as u32) << TICK_BITS | now & ((1 << TICK_BITS) - 1))
    }

    /// When it failed.
    #[inline(always)]
    pub const fn tick(self) -> Tick {
        self.0 & ((1 << TICK_BITS) - 1)
    }

    /// How it failed.
    pub const fn kind(self) -> FailureKind {
        match self.0 >> TICK_BITS {
            0 => FailureKind::Unanswered,
            1 => FailureKind::Tested,
            _ => FailureKind::Refused,
        }
    }
}

/// How packets reach a backend, and what its replies look like to clients: 80 bytes. Mode DSR uses only `id`,
/// `ifindex`, `vip`, `vip_port`, `mac`, `source_mac`, `mtu` and `state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BackendEntry {
    /// This backend's id. A flow of an earlier backend at the same index detects the reuse by comparing it.
    pub id: BackendId,
    /// Index of the link by which the backend is reached.
    pub ifindex: u32,
    /// Address of the backend, of the same family as the VIP.
    pub address: Address,
    /// VIP of the frontend: the source address of the replies that clients get.
    pub vip: Address,
    /// Source address of the packets that the backend gets: one of
    /// [`Settings::snat`](crate::settings::Settings::snat).
    pub snat: Address,
    /// Names the host for affinity: the same number for all ports of one host address. Not 0.
    pub host: u32,
    /// Bytes of the largest IP packet on the path to the backend; 0: no limit is known.
    pub mtu: u16,
    /// Port of the backend.
    pub port: WirePort,
    /// Port of the frontend.
    pub vip_port: WirePort,
    /// MAC address of the backend, or of the router that leads to it. While it is unknown, packets to the
    /// backend are dropped ([`Reason::NoNeighbour`](crate::reason::Reason)).
    pub mac: Mac,
    /// MAC address of the link by which the backend is reached.
    pub source_mac: Mac,
    /// [`ACTIVE`], [`DRAINING`] or [`DEAD`].
    pub state: u8,
    /// [`TCP`](crate::frontend::TCP) or [`UDP`](crate::frontend::UDP).
    pub protocol: u8,
}

const _: () = assert!(size_of::<BackendEntry>() == 80);

impl BackendEntry {
    /// Whether a packet may go to this backend. `opens`: the packet begins a flow.
    #[inline(always)]
    pub const fn takes(&self, opens: bool) -> bool {
        self.state == ACTIVE || (self.state == DRAINING && !opens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_an_index_and_a_generation() {
        let id = BackendId::new(70_000, 4095);
        assert_eq!((id.index(), id.generation()), (70_000, 4095));
        assert_ne!(BackendId::new(0, 1), BackendId::default());
    }

    #[test]
    fn a_mark_is_a_kind_and_a_time() {
        for kind in [FailureKind::Unanswered, FailureKind::Tested, FailureKind::Refused] {
            let mark = FailureMark::new(kind, 123_456);
            assert_eq!((mark.kind(), mark.tick()), (kind, 123_456));
        }
    }

    #[test]
    fn draining_backends_get_no_new_flows_and_dead_ones_no_packet() {
        let takes = |state, opens| BackendEntry { state, ..Zeroable::zeroed() }.takes(opens);
        assert!(takes(ACTIVE, true) && takes(ACTIVE, false) && takes(DRAINING, false));
        assert!(!takes(DRAINING, true) && !takes(DEAD, false) && !takes(0, false));
    }
}
