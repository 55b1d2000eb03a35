// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the packet programs count, as values of per-CPU maps.

use bytemuck::{Pod, Zeroable};

/// Name of the per-CPU array of [`LinkCounters`]. Each link has an array of its own.
pub const LINK_COUNTERS_MAP: &str = "LINK_COUNTERS";

/// Number of values in that map per CPU.
pub const LINK_COUNTERS_CAPACITY: usize = 1;

/// Packets and bytes seen on one link; one value per CPU.
///
/// 16 bytes, native byte order: `packets` (8), `bytes` (8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LinkCounters {
    /// Frames seen.
    pub packets: u64,
    /// Bytes of these frames, Ethernet header included.
    pub bytes: u64,
}

const _: () = assert!(size_of::<LinkCounters>() == 16);

impl LinkCounters {
    /// The sum of two counts. It wraps, because an overflow check would be a panic, which no verifier
    /// accepts.
    #[must_use]
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

/// Packets, bytes and flows of one backend; one value per CPU. 40 bytes: five numbers of 8 bytes, native byte
/// order.
///
/// The agent adds them up for a frontend. It keeps the last counts of a backend that it removes, so that the
/// sum never goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Packets to the backend.
    pub packets: u64,
    /// Bytes of these IP packets.
    pub bytes: u64,
    /// Packets from the backend; 0 in mode DSR.
    pub reply_packets: u64,
    /// Bytes of these IP packets.
    pub reply_bytes: u64,
    /// Flows that began.
    pub flows: u64,
}

const _: () = assert!(size_of::<Traffic>() == 40);

impl Traffic {
    /// The sum of two counts, wrapping.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
            reply_packets: self.reply_packets.wrapping_add(other.reply_packets),
            reply_bytes: self.reply_bytes.wrapping_add(other.reply_bytes),
            flows: self.flows.wrapping_add(other.flows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LinkCounters;

    #[test]
    fn sums_are_per_field_and_wrap() {
        let sum = LinkCounters { packets: u64::MAX, bytes: 1 }.plus(LinkCounters { packets: 2, bytes: 40 });
        assert_eq!(sum, LinkCounters { packets: 1, bytes: 41 });
    }
}
