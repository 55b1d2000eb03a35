// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Backends as the packet plane reaches them. Each belongs to one frontend. Flow entries name their backend
//! by its id.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Mac, WirePort};
use crate::time::{Tick, elapsed_secs};

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

/// A mark of a backend counts for so long. New connections avoid a dead backend for this time; the agent renews
/// its mark while it does not answer. Without an agent the mark ends, because then nobody looks whether the
/// backend has recovered.
pub const FAILING_SECS: u32 = 10;

/// New connections avoid a backend that refused two in a row for so long. Within this time the agent looks at
/// the mark, tests the backend, and says whether it is dead.
pub const REFUSING_SECS: u32 = 3;

/// What is known of a backend that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FailureKind {
    /// It had not answered a new connection when the client repeated its SYN. The SYN may have been lost, or the
    /// client may be at fault, so new connections still go to the backend.
    Unanswered = 0,
    /// It did not answer the agent's tests. New connections avoid it for [`FAILING_SECS`]. Only the agent says so.
    Dead = 1,
    /// It refused a new connection. New ones still go to it: the reason may lie in the one that it refused.
    Refused = 2,
    /// It refused more than one new connection and answered none meanwhile. New ones avoid it for
    /// [`REFUSING_SECS`].
    RefusedAgain = 3,
}

/// How a backend failed, and when: 4 bytes, native byte order. The upper two bits are the [`FailureKind`], the
/// others the [`Tick`], which has room for 36 years since the start of the machine. An answer of the backend
/// removes its mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct FailureMark(pub u32);

/// Bits of a [`FailureMark`] that are the tick.
const TICK_BITS: u32 = 30;

impl FailureMark {
    /// A mark of this time.
    #[inline(always)]
    pub const fn new(kind: FailureKind, now: Tick) -> Self {
        Self((kind as u32) << TICK_BITS | now & ((1 << TICK_BITS) - 1))
    }

    /// The mark of a backend after one more failure that a connection found, [`FailureKind::Unanswered`] or
    /// [`FailureKind::Refused`]. `None`: its mark `old` stays as it is, also its time.
    #[inline(always)]
    pub fn after(old: Option<Self>, found: FailureKind, now: Tick) -> Option<Self> {
        let old = old.filter(|old| elapsed_secs(old.tick(), now) < FAILING_SECS);
        let Some(old) = old else { return Some(Self::new(found, now)) };
        match (old.kind(), found) {
            (_, FailureKind::Unanswered | FailureKind::Dead) | (FailureKind::Dead, _) => None,
            (FailureKind::Unanswered, _) => Some(Self::new(FailureKind::Refused, old.tick())),
            (FailureKind::RefusedAgain, _) if old.is_avoided(now) => None,
            (FailureKind::Refused | FailureKind::RefusedAgain, _) => {
                Some(Self::new(FailureKind::RefusedAgain, now))
            }
        }
    }

    /// Whether new connections avoid the backend.
    #[inline(always)]
    pub fn is_avoided(self, now: Tick) -> bool {
        let limit_secs = match self.kind() {
            FailureKind::Unanswered | FailureKind::Refused => 0,
            FailureKind::RefusedAgain => REFUSING_SECS,
            FailureKind::Dead => FAILING_SECS,
        };
        elapsed_secs(self.tick(), now) < limit_secs
    }

    /// Whether a connection that failed at another backend should avoid this one too.
    #[inline(always)]
    pub fn is_suspected(self, now: Tick) -> bool {
        elapsed_secs(self.tick(), now) < FAILING_SECS
    }

    /// Whether it refused the last connection, or is dead: it will hardly take one that another one refused.
    #[inline(always)]
    pub fn is_refusing(self, now: Tick) -> bool {
        self.is_suspected(now) && self.kind() != FailureKind::Unanswered
    }

    /// The time of the mark.
    #[inline(always)]
    pub const fn tick(self) -> Tick {
        self.0 & ((1 << TICK_BITS) - 1)
    }

    /// How the backend failed.
    #[inline(always)]
    pub const fn kind(self) -> FailureKind {
        match self.0 >> TICK_BITS {
            0 => FailureKind::Unanswered,
            1 => FailureKind::Dead,
            2 => FailureKind::Refused,
            _ => FailureKind::RefusedAgain,
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
        use FailureKind::{Dead, Refused, RefusedAgain, Unanswered};
        for kind in [Unanswered, Dead, Refused, RefusedAgain] {
            let mark = FailureMark::new(kind, 123_456);
            assert_eq!((mark.kind(), mark.tick()), (kind, 123_456));
        }
    }

    #[test]
    fn connections_that_are_not_answered_take_no_backend_out() {
        use FailureKind::Unanswered;
        let mut mark = FailureMark::after(None, Unanswered, 100).unwrap();
        for now in 100..150 {
            mark = FailureMark::after(Some(mark), Unanswered, now).unwrap_or(mark);
            assert!(mark.kind() == Unanswered && mark.is_suspected(now));
            assert!(!mark.is_avoided(now) && !mark.is_refusing(now));
        }
        // It keeps its time, so that the agent sees that nothing was answered since.
        let first = FailureMark::new(Unanswered, 100);
        assert_eq!(FailureMark::after(Some(first), Unanswered, 105), None);
    }

    #[test]
    fn two_refusals_in_a_row_take_a_backend_out_for_a_moment() {
        use FailureKind::{Refused, RefusedAgain, Unanswered};
        let first = FailureMark::after(None, Refused, 100).unwrap();
        assert!(!first.is_avoided(100) && first.is_refusing(100));
        let second = FailureMark::after(Some(first), Refused, 101).unwrap();
        assert_eq!(second, FailureMark::new(RefusedAgain, 101));
        assert!(second.is_avoided(101) && second.is_avoided(103) && !second.is_avoided(104));
        assert_eq!(FailureMark::after(Some(second), Refused, 102), None);
        assert_eq!(FailureMark::after(Some(second), Unanswered, 105), None);
        assert_eq!(FailureMark::after(Some(second), Refused, 105), Some(FailureMark::new(RefusedAgain, 105)));
        let late = FailureMark::after(Some(first), Refused, 100 + 2 * FAILING_SECS);
        assert_eq!(late.map(FailureMark::kind), Some(Refused), "not in a row");
        let unanswered = FailureMark::new(Unanswered, 100);
        assert_eq!(FailureMark::after(Some(unanswered), Refused, 103), Some(FailureMark::new(Refused, 100)));
    }

    #[test]
    fn connections_do_not_change_what_the_agent_found_out() {
        use FailureKind::{Dead, Refused, Unanswered};
        let dead = FailureMark::new(Dead, 100);
        for found in [Unanswered, Refused] {
            assert_eq!(FailureMark::after(Some(dead), found, 105), None);
            // The agent is gone.
            let late = 100 + 2 * FAILING_SECS;
            assert!(!dead.is_avoided(late));
            assert_eq!(FailureMark::after(Some(dead), found, late), Some(FailureMark::new(found, late)));
        }
        assert!(dead.is_avoided(100) && dead.is_avoided(107));
    }

    #[test]
    fn draining_backends_get_no_new_flows_and_dead_ones_no_packet() {
        let takes = |state, opens| BackendEntry { state, ..Zeroable::zeroed() }.takes(opens);
        assert!(takes(ACTIVE, true) && takes(ACTIVE, false) && takes(DRAINING, false));
        assert!(!takes(DRAINING, true) && !takes(DEAD, false) && !takes(0, false));
    }
}
