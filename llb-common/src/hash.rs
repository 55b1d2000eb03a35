// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The hash of a flow, the same for every plane: in the kernel and in user space, on this box and on its
//! peers, a flow gets the same Maglev slot. It must not be used for hash tables: it has no secret key, so a
//! client can choose its slot.

/// Fixed, because boxes that serve the same VIPs must agree. A change of this or of any constant below moves
/// nearly every flow, so it must not happen within a release line.
const SEED: u64 = 0x6c6c_622e_6465_7631;

/// The five values that identify a flow, in one form for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// Client address in network order, IPv4 as IPv4-mapped (RFC 4291, 2.5.5.2).
    pub source: [u8; 16],
    /// VIP, in the same form.
    pub destination: [u8; 16],
    /// Client port; 0 if all ports of a client belong together (affinity).
    pub source_port: u16,
    /// Port of the frontend; 0 if all ports of a Service belong together (affinity).
    pub destination_port: u16,
    /// IANA protocol number: 6 TCP, 17 UDP.
    pub protocol: u8,
}

impl FlowKey {
    /// The hash: 64 well-mixed bits. It has no loop of unknown length and no panic, so an eBPF verifier
    /// accepts it.
    #[inline(always)]
    pub const fn hash(&self) -> u64 {
        let [source_high, source_low] = words(self.source);
        let [destination_high, destination_low] = words(self.destination);
        let rest =
            (self.source_port as u64) << 32 | (self.destination_port as u64) << 16 | self.protocol as u64;
        let hash = mix(SEED ^ source_high);
        let hash = mix(hash ^ source_low);
        let hash = mix(hash ^ destination_high);
        let hash = mix(hash ^ destination_low);
        mix(hash ^ rest)
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014): every input bit reaches every output bit.
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[inline(always)]
const fn words(address: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_be_bytes(address);
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        let mut source = [0; 16];
        source[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
        FlowKey { source, destination: [1; 16], source_port: port, destination_port: 80, protocol: 6 }
    }

    #[test]
    fn the_hash_never_changes() {
        // Peers with another version of llb must choose the same slot.
        assert_eq!(key(40_000).hash(), 5_870_996_590_725_038_642);
    }

    #[test]
    fn neighbouring_ports_spread_evenly() {
        const BUCKETS: usize = 16;
        let mut counts = [0_u32; BUCKETS];
        for port in 1024..=u16::MAX {
            counts[(key(port).hash() % BUCKETS as u64) as usize] += 1;
        }
        let expected = (u32::from(u16::MAX) - 1023) / BUCKETS as u32;
        assert!(counts.iter().all(|count| count.abs_diff(expected) < expected / 10), "{counts:?}");
    }
}
