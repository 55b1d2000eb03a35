// SPDX-License-Identifier: Apache-2.0
//! How the packets of a backend leave this machine.

use std::net::IpAddr;

use llb_common::address::Mac;

/// How the packets of a backend leave this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct NextHop {
    /// The link by which they leave.
    pub(in super::super) ifindex: u32,
    /// The link's MAC address.
    pub(in super::super) source_mac: Mac,
    /// MAC address of the backend, or of the router before it. `None`: not known, so the
    /// backend can't be reached now.
    pub(in super::super) mac: Option<Mac>,
    /// The address of this machine that the backend sees in mode NAT.
    pub(in super::super) source: IpAddr,
    /// Size of the largest IP packet, in bytes.
    pub(in super::super) mtu: u16,
}
