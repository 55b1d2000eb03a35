// SPDX-License-Identifier: Apache-2.0
//! The map entries of one frontend, each as a function of its rule and its next hops.

use std::collections::BTreeMap;
use std::net::IpAddr;

use llb_common::address::{Address, Mac, WirePort};
use llb_common::backend::{ACTIVE, BackendEntry, BackendId, DEAD, DRAINING};
use llb_common::frontend::{DSR, FrontendEntry, MemberKey, NAT_INSTEAD, RESTRICTED, SourceRangeKey};
use llb_common::maglev::{Contender, NOBODY, fill, slots_for};

use super::gate::Gate;
use super::ids::number_of;
use super::next_hop::NextHop;
use super::write::number;
use crate::model::{Backend, Frontend, Mode, Protocol, Rule, Weight};

/// The IPv4-mapped addresses of IPv6 (RFC 4291, 2.5.5.2). The maps keep IPv4 addresses like this.
const MAPPED: &str = "::ffff:0:0/96";

/// The flags of a frontend's entry.
pub(super) fn flags_of(rule: &Rule, mode: Mode, gate: Gate) -> u32 {
    let mode = match mode {
        Mode::Nat => 0,
        Mode::Dsr if rule.nat_instead => DSR | NAT_INSTEAD,
        Mode::Dsr => DSR,
    };
    gate.flags() | mode | if rule.terms.source_ranges.ranges().is_some() { RESTRICTED } else { 0 }
}

/// What becomes of the flows of backends that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostFlows {
    /// Their packets are dropped until the backend is back. To another backend they would mean
    /// nothing: it would reset the connection. So would the kernel.
    Wait,
    /// As [`LostFlows::Wait`], but not for ever: others answer well, and a client should know.
    MoveWhenLasting,
    /// They begin anew with others, which can answer them.
    Move,
}

/// What becomes of the flows of those backends of `rule` that are lost. As long as no other is
/// reached for a while, that is likely a trouble of this machine or of the network, and all come
/// back one after the other.
pub(super) fn lost_flows(
    frontend: Frontend,
    rule: &Rule,
    next_hop: &impl Fn(IpAddr) -> Option<NextHop>,
) -> LostFlows {
    let hops = rule.backends.keys().filter_map(|backend| next_hop(backend.address.ip()));
    let mut reached = hops.filter(|hop| hop.mac.is_some() && !hop.waits);
    match frontend.protocol {
        Protocol::Udp if reached.next().is_some() => LostFlows::Move,
        Protocol::Tcp if reached.any(|hop| hop.is_lasting) => LostFlows::MoveWhenLasting,
        Protocol::Udp | Protocol::Tcp => LostFlows::Wait,
    }
}

/// The entry of a backend of `rule`, or of a former one.
pub(super) fn entry_of(
    id: BackendId,
    frontend: Frontend,
    is_in_rule: bool,
    backend: Backend,
    (next_hop, lost_flows): (Option<NextHop>, LostFlows),
) -> BackendEntry {
    // A former backend keeps its TCP connections until they end. UDP has no end: what a
    // client goes on sending there would be lost for ever, and another backend can answer it.
    let keeps_flows = is_in_rule || frontend.protocol == Protocol::Tcp;
    let state = match (next_hop, lost_flows) {
        _ if !keeps_flows => DEAD,
        // It was never reached, so no flow has it.
        (None, _) => DEAD,
        (Some(NextHop { mac: Some(_), waits, .. }), _) => {
            if is_in_rule && !waits {
                ACTIVE
            } else {
                DRAINING
            }
        }
        (Some(_), LostFlows::Move) => DEAD,
        (Some(NextHop { is_lasting: true, .. }), LostFlows::MoveWhenLasting) => DEAD,
        // Without a MAC address: what its flows send is dropped.
        (Some(_), _) => DRAINING,
    };
    let address = backend.address.ip();
    let host = match address {
        IpAddr::V4(v4) => number_of(&v4.octets()),
        IpAddr::V6(v6) => number_of(&v6.octets()),
    };
    BackendEntry {
        id,
        ifindex: next_hop.map_or(0, |hop| hop.ifindex),
        address: Address::from(address),
        vip: Address::from(frontend.vip),
        snat: next_hop.map_or_else(Address::default, |hop| Address::from(hop.source)),
        host,
        mtu: next_hop.map_or(0, |hop| hop.mtu),
        port: WirePort::new(backend.address.port()),
        vip_port: WirePort::new(frontend.port.get()),
        mac: next_hop.and_then(|hop| hop.mac).unwrap_or(Mac::new([0; 6])),
        source_mac: next_hop.map_or(Mac::new([0; 6]), |hop| hop.source_mac),
        state,
        protocol: number(frontend.protocol),
    }
}

/// The slots of a selection table. They follow from the backends' addresses and weights
/// alone, so another llb with the same backends sends a flow to the same one.
pub(super) fn slots_of(
    backends: &BTreeMap<Backend, BackendEntry>,
    shares: &[(BackendId, Weight)],
) -> Vec<u32> {
    let weights: BTreeMap<u32, Weight> = shares.iter().map(|(id, weight)| (id.0, *weight)).collect();
    let of_share = backends.iter().filter_map(|(backend, entry)| Some((backend, weights.get(&entry.id.0)?)));
    // `fill` numbers contenders with 16 bits; no cluster has that many Pods behind a port.
    let mut contenders: Vec<Contender> = (0..NOBODY)
        .zip(of_share)
        .map(|(n, (backend, weight))| Contender::new(n, backend.to_string().as_bytes(), weight.get()))
        .collect();
    if contenders.is_empty() {
        return Vec::new();
    }
    let mut slots = vec![NOBODY; slots_for(contenders.len())];
    fill(&mut slots, &mut contenders);
    slots.into_iter().map(|n| shares.get(usize::from(n)).map_or(0, |(id, _)| id.0)).collect()
}

/// Which backend is on which host. Only client affinity needs to know.
pub(super) fn members_of(
    entry: &FrontendEntry,
    backends: &BTreeMap<Backend, BackendEntry>,
) -> BTreeMap<MemberKey, BackendId> {
    if entry.affinity_secs == 0 {
        return BTreeMap::new();
    }
    let member = |backend: &BackendEntry| (MemberKey { frontend: entry.id, host: backend.host }, backend.id);
    backends.values().filter(|backend| backend.state != DEAD).map(member).collect()
}

/// The source ranges of a Service, with 1 for clients that may use it and 0 for those that may not.
pub(super) fn ranges_of(service: u32, rule: &Rule) -> BTreeMap<SourceRangeKey, u8> {
    let mut ranges = BTreeMap::new();
    for range in rule.terms.source_ranges.ranges().unwrap_or_default() {
        ranges.insert(SourceRangeKey::range(service, Address::from(range.network()), range.prefix_len()), 1);
        // An IPv6 range that contains the IPv4-mapped addresses admits no IPv4 client.
        let mapped: ipnet::IpNet = MAPPED.parse().expect("a range");
        if range.addr().is_ipv6() && range.contains(&mapped) {
            let key = SourceRangeKey::range(service, Address::from(mapped.network()), 0);
            ranges.entry(key).or_insert(0);
        }
    }
    ranges
}
