// SPDX-License-Identifier: Apache-2.0
//! What drivers can do with XDP. The kernel tells this only over generic netlink (family `netdev`, Linux 6.3).

use std::io;

use super::generic::{Family, attribute, number};

// linux/netdev.h
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const FEATURES: u16 = 3;
const BASIC: u64 = 1;
const RX_SG: u64 = 1 << 5;
const NDO_XMIT: u64 = 1 << 2;
const NDO_XMIT_SG: u64 = 1 << 6;

/// What the driver of a link can do with XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpFeatures {
    /// It runs XDP programs.
    pub(crate) runs_programs: bool,
    /// It is known to run programs for frames in several buffers.
    pub(crate) runs_large_programs: bool,
    /// It takes frames that XDP sends. With many drivers this is so only while the link itself has a program.
    pub(crate) takes_frames: bool,
    /// It takes those that are in several buffers, too.
    pub(crate) takes_large_frames: bool,
}

impl XdpFeatures {
    /// Nothing is known to fail.
    pub(super) const UNKNOWN: Self = Self {
        runs_programs: true,
        runs_large_programs: false,
        takes_frames: true,
        takes_large_frames: true,
    };
}

/// The features of the link with this interface index.
///
/// # Errors
/// There is no such link, or the kernel does not tell.
pub(super) async fn ask(netdev: &mut Family, ifindex: u32) -> io::Result<XdpFeatures> {
    let answer = netdev.ask(DEV_GET, &attribute(IFINDEX, &ifindex.to_ne_bytes())).await?;
    Ok(number(&answer, FEATURES)?.map_or(XdpFeatures::UNKNOWN, |features| XdpFeatures {
        runs_programs: features & BASIC != 0,
        runs_large_programs: features & RX_SG != 0,
        takes_frames: features & NDO_XMIT != 0,
        takes_large_frames: features & NDO_XMIT_SG != 0,
    }))
}
