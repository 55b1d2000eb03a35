// SPDX-License-Identifier: Apache-2.0
//! What the packet plane is told, as plain data: both the model and the maps of
//! the programs are filled from it. It knows no packet and no flow.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Where a backend is among all, and which one of those that have been there.
pub(crate) type Id = (u32, u16);

/// VIP, port and protocol.
pub(crate) type FrontendName = (IpAddr, u16, u8);

pub(crate) type MacBytes = [u8; 6];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    Draining,
    Dead,
}

#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) id: Id,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) frontend: FrontendName,
    /// The source that it sees.
    pub(crate) snat: IpAddr,
    pub(crate) host: u32,
    /// The largest IP packet on the way to it.
    pub(crate) mtu: Option<u16>,
    /// Its own address, or that of the router before it; `None` while unknown.
    pub(crate) mac: Option<MacBytes>,
    /// The link that it is reached by.
    pub(crate) link: u32,
    pub(crate) state: State,
}

impl Backend {
    /// A backend that drains keeps what it has; a dead one gets nothing.
    pub(crate) fn takes(&self, begins: bool) -> bool {
        match self.state {
            State::Active => true,
            State::Draining => !begins,
            State::Dead => false,
        }
    }
}

/// Which packets of flows that are not known a frontend takes; the others are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Of TCP, those that open a connection: the relay still has some.
    OpeningsOnly,
    KnownFlowsOnly,
}

#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    pub(crate) id: u32,
    pub(crate) service: u32,
    pub(crate) is_dsr: bool,
    pub(crate) is_restricted: bool,
    pub(crate) gate: Gate,
    /// 0: none.
    pub(crate) affinity_secs: u64,
    /// Maglev slots. Empty: no backends.
    pub(crate) table: Vec<Id>,
    /// The slots before those, and when they were replaced.
    pub(crate) previous: Option<(Vec<Id>, u64)>,
}

/// Clients of a Service that may come, or a part of such a range that may not.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) service: u32,
    pub(crate) network: IpAddr,
    pub(crate) prefix_length: u8,
    pub(crate) admits: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) frontends: BTreeMap<FrontendName, Frontend>,
    /// By the first part of their ids.
    pub(crate) backends: BTreeMap<u32, Backend>,
    pub(crate) ranges: Vec<Range>,
    /// Sources that backends see.
    pub(crate) snat: Vec<IpAddr>,
    pub(crate) snat_ports: RangeInclusive<u16>,
    /// Whether new flows may be remembered: a budget is either endless or none
    /// here, as the second that it is for can't be seen from outside.
    pub(crate) has_budget: bool,
    /// Our own addresses.
    pub(crate) links: BTreeMap<u32, MacBytes>,
}

impl World {
    /// If it is still the one that is there.
    pub(crate) fn backend(&self, id: Id) -> Option<&Backend> {
        self.backends.get(&id.0).filter(|backend| backend.id == id)
    }

    /// The narrowest range decides.
    pub(crate) fn admits(&self, service: u32, client: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let has_client = |range: &&Range| {
            let other_bits = bits(range.network) ^ bits(client);
            range.service == service
                && range.network.is_ipv4() == client.is_ipv4()
                && (range.prefix_length == 0 || other_bits >> (128 - range.prefix_length) == 0)
        };
        let narrowest = self.ranges.iter().filter(has_client).max_by_key(|range| range.prefix_length);
        narrowest.is_some_and(|range| range.admits)
    }
}
