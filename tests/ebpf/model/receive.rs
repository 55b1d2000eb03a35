// SPDX-License-Identifier: Apache-2.0
//! The order of things: a frame is read, decided and rewritten.

use llb_common::reason::Reason;

use super::arrival::Arrival;
use super::flows::{FragmentName, Parts};
use super::outcome::{Course, Outcome, Said, Stop};
use super::rewrite::{Nat, Target, rewrite};
use super::state::Model;
use super::wire::{self, Carries, Fragment, Wire};
use super::world::{MacBytes, World};

impl Model {
    /// A frame arrives by `link`, which has this MAC.
    pub(crate) fn receive(&mut self, world: &World, link: (u32, MacBytes), frame: &[u8]) -> Said {
        let said = |verdict, reasons| Said { verdict, reasons, notes: vec![] };
        let Some(wire) = wire::read(frame) else { return said(Outcome::Pass, vec![]) };
        if wire.to != link.1 {
            return said(Outcome::Pass, vec![]);
        }
        let (ports, tcp_flags) = match &wire.carries {
            Carries::Transport { ports, tcp_flags, .. } => (*ports, *tcp_flags),
            Carries::Error { ports, .. } => (*ports, 0),
            Carries::LaterPart => match self.later_part(world, &wire, frame) {
                Ok(ports) => (ports, 0),
                Err(reason) => return said(Outcome::Pass, vec![reason]),
            },
        };
        let arrival = Arrival { world, wire: &wire, link, ports, tcp_flags };
        let (_, (address, port), protocol) = arrival.ends();
        let mut notes = vec![];
        // A source port stays that of its flow if a frontend with the same port comes later.
        let frontend = world.frontends.get_key_value(&(address, port, protocol));
        let decided = match (self.reply(&arrival), frontend) {
            (Err(Stop::NotOurs), Some(frontend)) => self.forward(&arrival, frontend, &mut notes),
            (reply, _) => reply,
        };
        let decided = decided.map(|mut way| {
            judge(&wire, &mut way);
            way
        });
        if wire.ip.fragment == Fragment::First {
            let is_forwarded = decided.as_ref().is_ok_and(|way| way.against.is_empty());
            self.first_part(world, &wire, is_forwarded.then_some(ports));
        }
        match decided {
            Err(Stop::NotOurs) => said(Outcome::Pass, vec![]),
            Err(Stop::Because(reason)) => {
                let is_drop = reason.verdict() == llb_common::reason::Verdict::Drop;
                said(if is_drop { Outcome::Drop } else { Outcome::Pass }, vec![reason])
            }
            Ok(way) => {
                if !way.against.is_empty() {
                    return Said { verdict: Outcome::Drop, reasons: way.against, notes };
                }
                self.memory.count(way.backend, way.is_reply, wire.ip.length);
                let verdict = Outcome::Sent(rewrite(frame, &wire, &way.target), way.link);
                Said { verdict, reasons: vec![], notes }
            }
        }
    }

    /// The ports of a later fragment.
    fn later_part(&mut self, world: &World, wire: &Wire, frame: &[u8]) -> Result<(u16, u16), Reason> {
        let name = fragment_name(wire);
        match self.memory.fragments.get(&name) {
            Some(Parts::Ports(from, to)) => Ok((*from, *to)),
            Some(Parts::NotForwarded) => Err(Reason::UnknownFragment),
            _ if !is_ours(world, wire) || wire.ip.at + wire.ip.length > frame.len() => {
                Err(Reason::UnknownFragment)
            }
            None | Some(Parts::Early) => {
                self.memory.fragments.insert(name, Parts::Early);
                Err(Reason::EarlyFragment)
            }
        }
    }

    /// Notes the ports of a first fragment, if it is forwarded.
    fn first_part(&mut self, world: &World, wire: &Wire, ports: Option<(u16, u16)>) {
        let parts = ports.map_or(Parts::NotForwarded, |(from, to)| Parts::Ports(from, to));
        if ports.is_some() || is_ours(world, wire) {
            self.memory.fragments.insert(fragment_name(wire), parts);
        }
    }

    /// A backend's packet to one of our source addresses, or an ICMP error about a packet that the backend got.
    fn reply(&mut self, arrival: &Arrival<'_>) -> Result<Course, Stop> {
        let (from, to, protocol) = arrival.ends();
        let world = arrival.world;
        if !world.snat.contains(&to.0) {
            return Err(Stop::NotOurs);
        }
        let name = (from.0, from.1, to.1, protocol);
        let mut reply = *self.memory.reply(&name).ok_or(Stop::NotOurs)?;
        let backend = world.backend(reply.backend).ok_or(Stop::Because(Reason::StaleReply))?;
        if backend.snat != to.0 {
            return Err(Stop::NotOurs);
        }
        if reply.seen == 0 && self.is_false_refusal(arrival, &name, &reply, backend) {
            return Err(Stop::Because(Reason::FalseRefusal));
        }
        if reply.seen == 0 && self.is_refusal(arrival, &name, &reply, backend) {
            return Err(Stop::Because(Reason::Refused));
        }
        if !arrival.is_error() {
            reply.used = self.now;
            self.backend_lives(arrival, &name, &mut reply, backend);
            *self.memory.reply(&name).unwrap() = reply;
        }
        let (link, to_mac) = reply.way;
        let from_mac =
            if link == arrival.link.0 { Some(arrival.link.1) } else { world.links.get(&link).copied() };
        let is_known = from_mac.is_some() && to_mac != MacBytes::default();
        let against = if is_known { vec![] } else { vec![Reason::NoNeighbour] };
        let nat = Nat { from: (backend.frontend.0, backend.frontend.1), to: reply.client };
        let target = Target { to_mac, from_mac: from_mac.unwrap_or_default(), nat: Some(nat) };
        Ok(Course { target, backend: backend.id, link, is_reply: true, against })
    }
}

/// Collects the reasons against translating a packet, in either direction.
fn judge(wire: &Wire, way: &mut Course) {
    if way.target.nat.is_none() {
        return;
    }
    if wire.ip.time_to_live <= 1 {
        way.against.push(Reason::TimeToLive);
    }
    let has_none = matches!(wire.carries, Carries::Transport { has_checksum: false, .. });
    if has_none && wire.ip.source.is_ipv6() {
        way.against.push(Reason::NoChecksum);
    }
}

/// Whether some packets to this address are forwarded.
fn is_ours(world: &World, wire: &Wire) -> bool {
    let to = wire.ip.destination;
    world.snat.contains(&to) || world.frontends.keys().any(|(vip, ..)| *vip == to)
}

fn fragment_name(wire: &Wire) -> FragmentName {
    (wire.ip.source, wire.ip.destination, wire.ip.fragment_id, wire.ip.protocol)
}
