// SPDX-License-Identifier: Apache-2.0
//! The Internet checksum (RFC 1071), written plainly: what llb's own computation is compared with.

/// The checksum of these bytes. A last odd byte counts as if a zero followed.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
