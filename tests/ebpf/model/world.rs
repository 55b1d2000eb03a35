// SPDX-License-Identifier: Apache-2.0
//! The configuration of the packet plane as plain data. Both the model and the programs' maps are filled from
//! it. It knows no packets and no flows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Index of a backend, and the generation of that index: which of the backends that have had it.
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
    /// The source address that the backend sees.
    pub(crate) snat: IpAddr,
    pub(crate) host: u32,
    /// The largest IP packet that fits on the way to it.
    pub(crate) mtu: Option<u16>,
    /// MAC of the backend or of the router before it; `None` if unknown.
    pub(crate) mac: Option<MacBytes>,
    /// The link by which it is reached.
    pub(crate) link: u32,
    /// MAC of that link, as the agent knows it.
    pub(crate) from_mac: MacBytes,
    pub(crate) state: State,
}

impl Backend {
    /// A draining backend keeps its flows; a dead one gets nothing.
    pub(crate) fn takes(&self, begins: bool) -> bool {
        match self.state {
            State::Active => true,
            State::Draining => !begins,
            State::Dead => false,
        }
    }
}

/// Which packets of unknown flows a frontend takes. It leaves the others to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// For TCP, packets that open a connection: the relay still has connections of this frontend.
    OpeningsOnly,
    KnownFlowsOnly,
}

#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    pub(crate) id: u32,
    pub(crate) service: u32,
    pub(crate) is_dsr: bool,
    /// With DSR: flows whose first packet a Node sends back begin in mode NAT.
    pub(crate) nat_instead: bool,
    pub(crate) is_restricted: bool,
    pub(crate) gate: Gate,
    /// 0 means no affinity.
    pub(crate) affinity_secs: u64,
    /// Maglev slots; empty if there are no backends.
    pub(crate) table: Vec<Id>,
    /// The slots before the last change, and the time of that change.
    pub(crate) previous: Option<(Vec<Id>, u64)>,
}

/// A range of clients that a Service admits, or a part of such a range that it does not admit.
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
    /// By their indices.
    pub(crate) backends: BTreeMap<u32, Backend>,
    pub(crate) ranges: Vec<Range>,
    /// Source addresses that backends see.
    pub(crate) snat: Vec<IpAddr>,
    pub(crate) snat_ports: RangeInclusive<u16>,
    /// Whether new flows may be remembered. The budget is either unlimited or zero here, because nobody outside
    /// can see for which second it counts.
    pub(crate) has_budget: bool,
    /// MACs of our own links, as the programs know them.
    pub(crate) links: BTreeMap<u32, MacBytes>,
    /// All links, of which the programs need not know all, and whether each is there: frames arrive by those.
    pub(crate) places: [(u32, MacBytes); 3],
    pub(crate) is_there: [bool; 3],
    /// Clients are answered by the routes, where there is a whole way.
    pub(crate) returns_by_routes: bool,
    /// Link and MAC to which the routes lead, by client.
    pub(crate) routes: BTreeMap<IpAddr, (u32, MacBytes)>,
}

impl World {
    /// The backend with this id, if the index has not been reused.
    pub(crate) fn backend(&self, id: Id) -> Option<&Backend> {
        self.backends.get(&id.0).filter(|backend| backend.id == id)
    }

    /// The way back to a client by the routes, if it is one of the ways that clients are answered by.
    pub(crate) fn route(&self, client: IpAddr) -> Option<(u32, MacBytes)> {
        let way = self.routes.get(&client).copied();
        way.filter(|way| self.returns_by_routes && self.links.contains_key(&way.0))
    }

    /// Whether another host may have this address.
    pub(crate) fn is_foreign(&self, address: IpAddr) -> bool {
        let is_of_a_host = match address {
            IpAddr::V4(v4) => {
                let is_any = v4.octets()[0] == 0;
                !is_any && !v4.is_loopback() && !v4.is_multicast() && !v4.is_broadcast()
            }
            IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast(),
        };
        is_of_a_host && !self.snat.contains(&address) && !self.frontends.keys().any(|name| name.0 == address)
    }

    /// The narrowest range that contains the client decides.
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
