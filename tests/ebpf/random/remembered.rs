// SPDX-License-Identifier: Apache-2.0
//! What the model remembers as the bytes of the programs' maps: to find an
//! entry there, and to compare all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use bytemuck::{Zeroable as _, bytes_of};
use llb_common::address::{Address, Mac, WirePort};
use llb_common::backend::BackendId;
use llb_common::conntrack::{
    ForwardEntry, FragmentKey, FragmentPorts, ReplyEntry, ReplyKey, forward_key, next_hop,
};
use llb_common::frontend::{AffinityEntry, AffinityKey};
use llb_common::maps;

use super::fill::Kernel;
use crate::model::flows::{Flow, FlowName, FragmentName, Memory, Reply, ReplyName};
use crate::model::world::Id;
use crate::programs::Program;

impl Kernel {
    /// All that is remembered is what the model remembers; times are left out.
    pub(super) fn assert_same(&self, memory: &Memory, name: &str) {
        for program in &self.programs {
            let hook = program.hook;
            let flows = |flows: &BTreeMap<FlowName, Flow>| bytes(flows, flow_key, flow_entry);
            let replies = |replies: &BTreeMap<ReplyName, Reply>| bytes(replies, reply_key, reply_entry);
            let of_kernel = |map| timeless::<24, 16>(program, map, 4..8);
            assert_eq!(of_kernel(maps::FLOWS.name), flows(&memory.flows), "{name}: {hook:?}");
            assert_eq!(of_kernel(maps::PENDING_FLOWS.name), flows(&memory.pending_flows), "{name}: {hook:?}");
            let of_kernel = |map| timeless::<24, 40>(program, map, 20..24);
            assert_eq!(of_kernel(maps::REPLIES.name), replies(&memory.replies), "{name}: {hook:?}");
            assert_eq!(
                of_kernel(maps::PENDING_REPLIES.name),
                replies(&memory.pending_replies),
                "{name}: {hook:?}"
            );
            let ports = |ports: &(u16, u16)| {
                let ports =
                    FragmentPorts { source: WirePort::new(ports.0), destination: WirePort::new(ports.1) };
                bytes_of(&ports).to_vec()
            };
            let fragments = bytes(&memory.fragments, fragment_key, ports);
            assert_eq!(timeless::<40, 4>(program, maps::FRAGMENTS.name, 0..0), fragments, "{name}: {hook:?}");
            let failing = memory.failing.keys().map(|backend| bytes_of(&id(*backend)).to_vec());
            let of_kernel = timeless::<4, 4>(program, maps::FAILING.name, 0..4);
            assert_eq!(Vec::from_iter(of_kernel.into_keys()), sorted(failing), "{name}: {hook:?}");
            let host = |entry: &(u32, u64)| bytes_of(&AffinityEntry { host: entry.0, used: 0 }).to_vec();
            let affinity = bytes(&memory.affinity, |(client, service)| affinity_key(*client, *service), host);
            assert_eq!(timeless::<24, 8>(program, maps::AFFINITY.name, 4..8), affinity, "{name}: {hook:?}");
        }
    }
}

fn sorted(keys: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    BTreeSet::from_iter(keys).into_iter().collect()
}

type Bytes = BTreeMap<Vec<u8>, Vec<u8>>;

fn bytes<K, V>(map: &BTreeMap<K, V>, key: impl Fn(&K) -> Vec<u8>, value: impl Fn(&V) -> Vec<u8>) -> Bytes {
    map.iter().map(|(k, v)| (key(k), value(v))).collect()
}

fn timeless<const K: usize, const V: usize>(program: &Program, map: &str, time: Range<usize>) -> Bytes {
    let without = |(key, mut value): ([u8; K], [u8; V])| {
        value[time.clone()].fill(0);
        (key.to_vec(), value.to_vec())
    };
    program.entries::<K, V>(map).into_iter().map(without).collect()
}

pub(super) fn id((index, generation): Id) -> BackendId {
    BackendId::new(index, generation)
}

pub(super) fn flow_key((client, port, (vip, vip_port, protocol)): &FlowName) -> Vec<u8> {
    let (client, vip) = (Address::from(*client), Address::from(*vip));
    bytes_of(&forward_key(client, WirePort::new(*port), vip, WirePort::new(*vip_port), *protocol)).to_vec()
}

pub(super) fn flow_entry(flow: &Flow) -> Vec<u8> {
    let entry = ForwardEntry {
        backend: id(flow.backend),
        snat_port: WirePort::new(flow.snat_port),
        seen: flow.seen,
        next_hop: next_hop(flow.way.0, Mac::new(flow.way.1)),
        ..ForwardEntry::zeroed()
    };
    bytes_of(&entry).to_vec()
}

pub(super) fn reply_key((backend, port, snat_port, protocol): &ReplyName) -> Vec<u8> {
    let key = ReplyKey {
        backend: Address::from(*backend),
        backend_port: WirePort::new(*port),
        snat_port: WirePort::new(*snat_port),
        protocol: *protocol,
        padding: [0; 3],
    };
    bytes_of(&key).to_vec()
}

pub(super) fn reply_entry(reply: &Reply) -> Vec<u8> {
    let entry = ReplyEntry {
        client: Address::from(reply.client.0),
        client_port: WirePort::new(reply.client.1),
        backend: id(reply.backend),
        seen: reply.seen,
        ifindex: reply.way.0,
        mac: Mac::new(reply.way.1),
        ..ReplyEntry::zeroed()
    };
    bytes_of(&entry).to_vec()
}

pub(super) fn fragment_key((source, destination, id, protocol): &FragmentName) -> Vec<u8> {
    // As on the wire: four bytes, or two of them in the first half.
    let id = if source.is_ipv4() { u32::from(u16::to_be(*id as u16)) } else { id.to_be() };
    let key = FragmentKey {
        source: Address::from(*source),
        destination: Address::from(*destination),
        id,
        protocol: *protocol,
        padding: [0; 3],
    };
    bytes_of(&key).to_vec()
}

pub(super) fn affinity_key(client: IpAddr, service: u32) -> Vec<u8> {
    bytes_of(&AffinityKey { client: Address::from(client), service, padding: 0 }).to_vec()
}
