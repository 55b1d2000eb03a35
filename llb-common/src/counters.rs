//! What the packet programs count, as the bytes of one map value.

use bytemuck::{Pod, Zeroable};

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
