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

#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    pub(crate) id: u32,
    pub(crate) service: u32,
    pub(crate) is_dsr: bool,
    pub(crate) is_restricted: bool,
    /// 0: none.
    pub(crate) affinity_secs: u64,
    /// Maglev slots. Empty: no backends.
    pub(crate) table: Vec<Id>,
    /// The slots before those, and when they were replaced.
    pub(crate) previous: Option<(Vec<Id>, u64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) frontends: BTreeMap<FrontendName, Frontend>,
    /// By the first part of their ids.
    pub(crate) backends: BTreeMap<u32, Backend>,
    /// Service, network and prefix length.
    pub(crate) ranges: Vec<(u32, IpAddr, u8)>,
    /// Sources that backends see.
    pub(crate) snat: Vec<IpAddr>,
    pub(crate) snat_ports: RangeInclusive<u16>,
    /// Whether new flows may be remembered: a budget is either endless or none
    /// here, as the second that it is for can't be seen from outside.
    pub(crate) has_budget: bool,
    /// Our own addresses.
    pub(crate) links: BTreeMap<u32, MacBytes>,
    /// Most entries of the table of flows, and of that of replies.
    pub(crate) room: (usize, usize),
}

impl World {
    /// If it is still the one that is there.
    pub(crate) fn backend(&self, id: Id) -> Option<&Backend> {
        self.backends.get(&id.0).filter(|backend| backend.id == id)
    }

    pub(crate) fn admits(&self, service: u32, client: IpAddr) -> bool {
        self.ranges.iter().any(|(of, network, length)| {
            let (network, client) = match (network, client) {
                (IpAddr::V4(network), IpAddr::V4(client)) => {
                    (u128::from(network.to_bits()) << 96, u128::from(client.to_bits()) << 96)
                }
                (IpAddr::V6(network), IpAddr::V6(client)) => (network.to_bits(), client.to_bits()),
                _ => return false,
            };
            *of == service && (*length == 0 || (network ^ client) >> (128 - length) == 0)
        })
    }
}
