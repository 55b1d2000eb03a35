// SPDX-License-Identifier: Apache-2.0
//! Keys and entries of the model's memory as the bytes that the programs' maps hold.

use std::net::IpAddr;

use bytemuck::{Zeroable as _, bytes_of};
use llb_common::address::{Address, Mac, WirePort};
use llb_common::backend::{BackendId, FailureKind};
use llb_common::conntrack::{
    ForwardEntry, FragmentKey, FragmentPorts, ReplyEntry, ReplyKey, forward_key, next_hop,
};
use llb_common::frontend::AffinityKey;

use crate::model::flows::{Finding, Flow, FlowName, FragmentName, Parts, Reply, ReplyName};
use crate::model::world::Id;

pub(super) fn id((index, generation): Id) -> BackendId {
    BackendId::new(index, generation)
}

pub(super) fn failure(finding: Finding) -> FailureKind {
    match finding {
        Finding::Unanswered => FailureKind::Unanswered,
        Finding::Refused => FailureKind::Refused,
        Finding::RefusedAgain => FailureKind::RefusedAgain,
        Finding::Dead => FailureKind::Dead,
    }
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
        is_routed: flow.is_routed.into(),
        next_hop: next_hop(flow.way.0, Mac::new(flow.way.1)),
        seq: flow.seq,
        ack: flow.ack,
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
        refused: reply.is_refused.into(),
        ifindex: reply.way.0,
        mac: Mac::new(reply.way.1),
        ..ReplyEntry::zeroed()
    };
    bytes_of(&entry).to_vec()
}

pub(super) fn fragment_key((source, destination, id, protocol): &FragmentName) -> Vec<u8> {
    // As on the wire: four bytes in IPv6, two in IPv4, in the first half of the field.
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

pub(super) fn fragment_ports(parts: &Parts) -> Vec<u8> {
    let ports = match *parts {
        Parts::Ports(from, to) => {
            FragmentPorts { source: WirePort::new(from), destination: WirePort::new(to) }
        }
        Parts::NotForwarded => FragmentPorts::NOT_FORWARDED,
        Parts::Early => FragmentPorts::EARLY,
    };
    bytes_of(&ports).to_vec()
}

pub(super) fn affinity_key(client: IpAddr, service: u32) -> Vec<u8> {
    bytes_of(&AffinityKey { client: Address::from(client), service, padding: 0 }).to_vec()
}
