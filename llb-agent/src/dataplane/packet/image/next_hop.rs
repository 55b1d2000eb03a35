// SPDX-License-Identifier: Apache-2.0
//! How the packets of a backend leave this machine.

use std::net::IpAddr;

use llb_common::address::Mac;

/// How the packets of a backend leave this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct NextHop {
    /// The link.
    pub(in super::super) ifindex: u32,
    /// MAC of that link.
    pub(in super::super) source_mac: Mac,
    /// MAC of the backend, or of the router before it; unknown: it can't be reached now.
    pub(in super::super) mac: Option<Mac>,
    /// Address of this machine that the backend sees in mode NAT.
    pub(in super::super) source: IpAddr,
    /// Bytes of the largest IP packet.
    pub(in super::super) mtu: u16,
}
