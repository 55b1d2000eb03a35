// SPDX-License-Identifier: Apache-2.0
//! How the packets of a backend leave this machine.

use std::net::IpAddr;

use llb_common::address::Mac;
use llb_common::backend::BackendEntry;

/// How the packets of a backend leave this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct NextHop {
    /// The link by which they leave.
    pub(in super::super) ifindex: u32,
    /// The link's MAC address.
    pub(in super::super) source_mac: Mac,
    /// MAC address of the backend, or of the router before it. `None`: the backend is lost, it
    /// can't be reached any more. The other fields are then those of its last way.
    pub(in super::super) mac: Option<Mac>,
    /// The address of this machine that the backend sees in mode NAT.
    pub(in super::super) source: IpAddr,
    /// Size of the largest IP packet, in bytes.
    pub(in super::super) mtu: u16,
    /// It is reached, or lost, for so long that others may rely on that: flows of a lost backend
    /// begin anew with others.
    pub(in super::super) is_lasting: bool,
    /// New flows wait: it is not known yet whether the backend, a Node, has a rule for VIP and port. Its other flows
    /// go on.
    pub(in super::super) waits: bool,
}

impl NextHop {
    /// The way that a backend's entry has; `None` if it has none.
    pub(super) fn of(entry: &BackendEntry) -> Option<Self> {
        let has_way = entry.ifindex != 0 && !entry.snat.is_unspecified();
        has_way.then(|| Self {
            ifindex: entry.ifindex,
            source_mac: entry.source_mac,
            mac: Some(entry.mac).filter(|mac| !mac.is_unknown()),
            source: entry.snat.into(),
            mtu: entry.mtu,
            is_lasting: false,
            waits: false,
        })
    }
}
