// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Access to the bytes of a frame: a slice on the host, in eBPF what a hook gives.

/// Read access to a frame. A result has the bytes in the order in which they are in the frame. It is `None`
/// where they are outside the frame, or outside the part of it that can be read.
pub trait Frame {
    /// The 8 * `N` bytes from `offset` on.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u64; N]>;
    /// The four bytes from `offset` on.
    fn word(&self, offset: usize) -> Option<u32>;
    /// The two bytes from `offset` on.
    fn half(&self, offset: usize) -> Option<u16>;
}

impl Frame for [u8] {
    fn words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let bytes = self.get(offset..offset + 8 * N)?;
        Some(core::array::from_fn(|n| bytemuck::pod_read_unaligned(&bytes[8 * n..8 * n + 8])))
    }

    fn word(&self, offset: usize) -> Option<u32> {
        self.get(offset..offset + 4).map(bytemuck::pod_read_unaligned)
    }

    fn half(&self, offset: usize) -> Option<u16> {
        self.get(offset..offset + 2).map(bytemuck::pod_read_unaligned)
    }
}
