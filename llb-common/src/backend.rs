// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Backends as the packet plane reaches them. Each belongs to one frontend;
//! what flows know of theirs is its id.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac, WirePort};

/// Where a backend is in the array of [`BackendEntry`]s, and which one of
/// those that have been there: 4 bytes, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct BackendId(pub u32);

/// Bits of a [`BackendId`] that are the index; the others are the generation.
const INDEX_BITS: u32 = 20;

impl BackendId {
    /// Of the backend at `index` (less than 2^20). Give a place that is used
    /// again the next `generation` (1 to 4095, then 1 again), so that flows of
    /// its old backend do not take the new one for it.
    pub const fn new(index: u32, generation: u16) -> Self {
        Self((generation as u32) << INDEX_BITS | index & ((1 << INDEX_BITS) - 1))
    }

    /// Where it is, in `BACKENDS` and in `TRAFFIC`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    /// Which of those that have been there.
    pub const fn generation(self) -> u16 {
        (self.0 >> INDEX_BITS) as u16
    }
}

/// [`BackendEntry::state`]: gets new flows. Zero is not a state.
pub const ACTIVE: u8 = 1;
/// [`BackendEntry::state`]: keeps its flows, gets no new ones.
pub const DRAINING: u8 = 2;
/// [`BackendEntry::state`]: its flows are given to others.
pub const DEAD: u8 = 3;

/// For this long after a backend refused or did not answer a new connection,
/// others go elsewhere; then one tries it again. So short that a backend that is
/// back is soon used, so long that few connections wait for a second SYN.
pub const FAILING_SECS: u32 = 10;

/// How to reach a backend, and what its replies shall look like: 80 bytes.
/// Mode DSR looks only at `id`, `ifindex`, `vip`, `vip_port`, `mac`, `source_mac`,
/// `mtu` and `state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BackendEntry {
    /// Its own id; flows of another one that was here before see it by that.
    pub id: BackendId,
    /// The link that it is reached by.
    pub ifindex: u32,
    /// Its address, of the VIP's family.
    pub address: Address,
    /// VIP of its frontend: the source of what clients get.
    pub vip: Address,
    /// The source of what it gets; one of [`Settings::snat`](crate::settings::Settings::snat).
    pub snat: Address,
    /// What affinity knows it by: the same for all ports of one host; not 0.
    pub host: u32,
    /// Bytes of the largest IP packet on the way to it; 0: no limit known.
    pub mtu: u16,
    /// Its port.
    pub port: WirePort,
    /// Port of its frontend.
    pub vip_port: WirePort,
    /// Of the backend, or of the router before it. While it is unknown, its
    /// packets are dropped ([`Reason::NoNeighbour`](crate::reason::Reason)).
    pub mac: Mac,
    /// Of the link that it is reached by.
    pub source_mac: Mac,
    /// [`ACTIVE`], [`DRAINING`], [`DEAD`].
    pub state: u8,
    /// [`TCP`](crate::frontend::TCP) or [`UDP`](crate::frontend::UDP).
    pub protocol: u8,
}

const _: () = assert!(size_of::<BackendEntry>() == 80);

impl BackendEntry {
    /// Whether a packet may go to it. `opens`: the packet begins a flow.
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
    fn draining_backends_get_no_new_flows_and_dead_ones_no_packet() {
        let takes = |state, opens| BackendEntry { state, ..Zeroable::zeroed() }.takes(opens);
        assert!(takes(ACTIVE, true) && takes(ACTIVE, false) && takes(DRAINING, false));
        assert!(!takes(DRAINING, true) && !takes(DEAD, false) && !takes(0, false));
    }
}
