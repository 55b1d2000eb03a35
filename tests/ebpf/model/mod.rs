// SPDX-License-Identifier: Apache-2.0
//! A slow and simple model of the packet plane, written from its documentation. It says for each frame what
//! becomes of it, to the last byte, and what is remembered. It shares with the programs only the contract with
//! other machines (hash, order of source ports), the names of reasons, and the algorithm of the flow table,
//! which decides which flow finds room.
//!
//! A green test with it does not prove that the documentation is right: where both are wrong in the same way,
//! they agree.
//!
//! ```text
//!   receive -> wire::read -> to a frontend -> known flow, else begin (select) -> judge -> rewrite
//!                    `-----> to a source address -> reply entry ---------------'
//! ```

mod failing;
pub(crate) mod flows;
mod forward;
pub(crate) mod placed;
mod rewrite;
mod select;
pub(crate) mod wire;
pub(crate) mod world;

use flows::{Memory, Way, seen_after};
use llb_common::reason::Reason;
pub(crate) use rewrite::is_right;
use rewrite::{Nat, Target, rewrite};
use wire::{Carries, Fragment, Wire};
use world::{Id, MacBytes, World};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Drop,
    /// The resulting bytes, and the link by which they leave.
    Sent(Vec<u8>, u32),
}

/// What becomes of a frame.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) verdict: Verdict,
    /// Exactly one of these is counted. If several apply, it may be any of them.
    pub(crate) reasons: Vec<Reason>,
    /// All of these are counted.
    pub(crate) notes: Vec<Reason>,
}

/// What the model remembers, and the time in seconds.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) memory: Memory,
    pub(crate) now: u64,
}

/// Why a packet is not forwarded; decided before anything is written.
enum Stop {
    NotOurs,
    Because(Reason),
}

/// Where a packet of a flow goes, unless a reason is against it.
struct Course {
    target: Target,
    backend: Id,
    link: u32,
    is_reply: bool,
    against: Vec<Reason>,
}

/// A packet, and what is known about its arrival.
struct Arrival<'a> {
    world: &'a World,
    wire: &'a Wire,
    link: (u32, MacBytes),
    ports: (u16, u16),
    tcp_flags: u8,
}

impl Arrival<'_> {
    fn is_error(&self) -> bool {
        matches!(self.wire.carries, Carries::Error { .. })
    }

    /// Source and destination of the flow that the packet belongs to. An ICMP error about a packet counts as
    /// one in the direction that leads back to the sender of that packet.
    fn ends(&self) -> ((std::net::IpAddr, u16), (std::net::IpAddr, u16), u8) {
        let ip = match &self.wire.carries {
            Carries::Error { inside, .. } => {
                return ((inside.destination, self.ports.1), (inside.source, self.ports.0), inside.protocol);
            }
            _ => &self.wire.ip,
        };
        ((ip.source, self.ports.0), (ip.destination, self.ports.1), ip.protocol)
    }

    fn way(&self) -> Way {
        (self.link.0, self.wire.from)
    }
}

impl Model {
    /// A frame arrives by `link`, which has this MAC.
    pub(crate) fn receive(&mut self, world: &World, link: (u32, MacBytes), frame: &[u8]) -> Said {
        let said = |verdict, reasons| Said { verdict, reasons, notes: vec![] };
        let Some(wire) = wire::read(frame) else { return said(Verdict::Pass, vec![]) };
        if wire.to != link.1 {
            return said(Verdict::Pass, vec![]);
        }
        let (ports, tcp_flags) = match &wire.carries {
            Carries::Transport { ports, tcp_flags, .. } => (*ports, *tcp_flags),
            Carries::Error { ports, .. } => (*ports, 0),
            Carries::LaterPart => match self.memory.fragments.get(&fragment_name(&wire)) {
                Some(ports) => (*ports, 0),
                None => return said(Verdict::Pass, vec![Reason::UnknownFragment]),
            },
        };
        let arrival = Arrival { world, wire: &wire, link, ports, tcp_flags };
        let (_, (address, port), protocol) = arrival.ends();
        let mut notes = vec![];
        let decided = match world.frontends.get_key_value(&(address, port, protocol)) {
            Some(frontend) => self.forward(&arrival, frontend, &mut notes),
            None => self.reply(&arrival),
        };
        match decided {
            Err(Stop::NotOurs) => said(Verdict::Pass, vec![]),
            Err(Stop::Because(reason)) => {
                let is_drop = reason.verdict() == llb_common::reason::Verdict::Drop;
                said(if is_drop { Verdict::Drop } else { Verdict::Pass }, vec![reason])
            }
            Ok(mut way) => {
                judge(&wire, &mut way);
                if !way.against.is_empty() {
                    return Said { verdict: Verdict::Drop, reasons: way.against, notes };
                }
                if wire.ip.fragment == Fragment::First {
                    self.memory.fragments.insert(fragment_name(&wire), ports);
                }
                self.memory.count(way.backend, way.is_reply, wire.ip.length);
                let verdict = Verdict::Sent(rewrite(frame, &wire, &way.target), way.link);
                Said { verdict, reasons: vec![], notes }
            }
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
        if reply.seen == 0 && self.is_refusal(arrival, &name, &reply, backend) {
            return Err(Stop::Because(Reason::Refused));
        }
        if matches!(arrival.wire.carries, Carries::Transport { .. }) {
            reply.seen = seen_after(reply.seen, arrival.tcp_flags);
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

fn fragment_name(wire: &Wire) -> flows::FragmentName {
    (wire.ip.source, wire.ip.destination, wire.ip.fragment_id, wire.ip.protocol)
}
