//! What this CPU has looked up lately: a packet of a flow that is in here costs
//! no look-up in a hash table, which takes longer than all else that is done
//! for it. It is never the truth, only a copy, and one that ends with the tick
//! in which it was made: in each tick, a flow's first packet touches its entry,
//! and whatever changes a flow is seen by then.
//!
//! Each flow has one place here, which it shares with others: with many more
//! flows than places nearly none is found, for a few nanoseconds more.

use llb_common::conntrack::{FIN, ForwardEntry, ForwardKey, RST};
use llb_common::maps;
use llb_common::parse::{Packet, Shape};
use llb_common::time::Tick;

use crate::forward::seen_after;
use crate::maps::RECENT_FLOWS;

/// Of the number of places, which is a power of two.
const PLACES_BITS: u32 = maps::RECENT_FLOWS.capacity.ilog2();

/// A line of the cache.
#[repr(C)]
pub(crate) struct RecentFlow {
    key: ForwardKey,
    /// As it is in `FLOWS`; `used` is when it was looked up.
    entry: ForwardEntry,
    padding: [u64; 3],
}

/// The place that a flow has.
#[inline(always)]
pub(crate) fn flow(key: &ForwardKey) -> Option<&'static mut RecentFlow> {
    let [high, low] = key.client.words();
    let ports = u64::from(key.client_port.wire()) << 16 | u64::from(key.vip_port.wire());
    let mixed = (high ^ low ^ ports << 16 ^ u64::from(key.vip)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let place = RECENT_FLOWS.get_ptr_mut((mixed >> (64 - PLACES_BITS)) as u32)?;
    // SAFETY: this CPU's own memory, and nothing else runs on it meanwhile.
    Some(unsafe { &mut *place })
}

impl RecentFlow {
    /// The entry of a flow that this packet does not change.
    #[inline(always)]
    pub(crate) fn find(
        &self,
        key: &ForwardKey,
        packet: &Packet,
        now: Tick,
        way: u32,
    ) -> Option<ForwardEntry> {
        let is_its = self.key == *key
            && self.entry.used == now
            && self.entry.way == way
            && packet.shape == Shape::Transport as u8
            && self.entry.seen == seen_after(self.entry.seen, packet);
        is_its.then_some(self.entry)
    }

    /// A flow that has ended may lose its place at any time.
    #[inline(always)]
    pub(crate) fn remember(&mut self, key: &ForwardKey, entry: ForwardEntry) {
        if entry.seen & (FIN | RST) == 0 {
            (self.key, self.entry) = (*key, entry);
        } else {
            self.forget(key);
        }
    }

    /// What is here of this flow is not true any more.
    #[inline(always)]
    pub(crate) fn forget(&mut self, key: &ForwardKey) {
        if self.key == *key {
            self.entry.used = 0;
        }
    }
}
