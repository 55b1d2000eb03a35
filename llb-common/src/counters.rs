// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the packet programs count, as the bytes of one map value.

use bytemuck::{Pod, Zeroable};

/// Name of the map of [`LinkCounters`]: a per-CPU array. Each link has a map
/// of its own, because each link has its own copy of the object.
pub const LINK_COUNTERS_MAP: &str = "LINK_COUNTERS";

/// Number of values in that map, per CPU.
pub const LINK_COUNTERS_CAPACITY: usize = 1;

/// Packets and bytes seen on one link; one value per CPU.
///
/// 16 bytes, native byte order: `packets` (8), `bytes` (8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LinkCounters {
    /// Frames seen.
    pub packets: u64,
    /// Bytes of those frames, Ethernet header included.
    pub bytes: u64,
}

const _: () = assert!(size_of::<LinkCounters>() == 16);

impl LinkCounters {
    /// Adds what another CPU, or the next frame, has counted. It wraps: a
    /// reachable overflow check would be a panic, which no verifier accepts.
    #[must_use]
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

/// Packets, bytes and flows of a backend; one value per CPU. A frontend's are
/// the sum over its backends, those that are gone included: whoever takes a
/// backend away keeps its last counts.
///
/// 40 bytes, native byte order, 8 for each field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Packets to the backend.
    pub packets: u64,
    /// Bytes of those IP packets.
    pub bytes: u64,
    /// Packets from the backend; none in mode DSR.
    pub reply_packets: u64,
    /// Bytes of those IP packets.
    pub reply_bytes: u64,
    /// Flows that began.
    pub flows: u64,
}

const _: () = assert!(size_of::<Traffic>() == 40);

impl Traffic {
    /// Adds what another CPU has counted.
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
