// SPDX-License-Identifier: Apache-2.0
//! Random packets of conversations. There are few clients, so conversations continue, in both directions, with
//! ICMP errors, fragments, noise and damaged bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, SeedableRng as _};

use super::addresses::address;
use super::bytes::{End, Part, ethernet, icmp, mutate, packet, transport};
use super::links;
use super::worlds::TAKEN_PORT;
use crate::model::ends::{ACK, FIN, RST, SYN};
use crate::model::flows::Memory;
use crate::model::wire::TCP;
use crate::model::world::{FrontendName, World};

const CLIENT_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];
const CLIENTS: [u8; 6] = [10, 11, 12, 13, 14, 21];
const ROUTER: u8 = 99;
/// Most conversations at the same time.
const MOST_KNOWN: usize = 12;

/// A frame as it arrives.
#[derive(Clone, Debug)]
pub(super) struct Arriving {
    pub(super) link: (u32, [u8; 6]),
    pub(super) bytes: Vec<u8>,
    /// Nothing in it was damaged on purpose.
    pub(super) is_right: bool,
}

#[derive(Clone, Copy)]
struct Conversation {
    client: End,
    frontend: FrontendName,
    /// MAC of the next hop from which the packets come, and the place of their link.
    mac: [u8; 6],
    place: usize,
}

pub(super) struct Traffic {
    pub(super) random: StdRng,
    known: Vec<Conversation>,
    /// Fragments that have not arrived yet, in any order.
    parts: Vec<Arriving>,
}

/// One direction of a flow, as it arrives.
#[derive(Clone, Copy)]
struct Leg {
    from: End,
    to: End,
    protocol: u8,
    mac: [u8; 6],
    link: (u32, [u8; 6]),
    /// Where the streams of both ends are: of the end that sends, and of the other.
    streams: (u32, u32),
}

/// Where the streams of clients and backends are.
const STREAMS: (u32, u32) = (5000, 90_000_000);

impl Traffic {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), known: vec![], parts: vec![] }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    pub(super) fn next(&mut self, world: &World, memory: &Memory) -> Arriving {
        self.parts.retain(|part| links::is_there(world, part.link));
        if !self.parts.is_empty() && self.one_in(2) {
            let n = self.random.random_range(0..self.parts.len());
            return self.parts.swap_remove(n);
        }
        let mut arriving = match self.random.random_range(0..20) {
            0..8 => {
                let leg = self.forward(world);
                self.data(leg)
            }
            8..14 => {
                let leg = self.reply(world, memory);
                self.data(leg)
            }
            14..16 => {
                let leg = self.forward(world);
                self.error(leg)
            }
            16..18 => {
                let leg = self.reply(world, memory);
                self.error(leg)
            }
            _ => self.noise(world),
        };
        if self.one_in(8) {
            mutate(&mut self.random, &mut arriving.bytes);
            arriving.is_right = false;
        }
        arriving
    }

    fn conversation(&mut self, world: &World) -> Conversation {
        if self.known.len() == MOST_KNOWN || !self.known.is_empty() && !self.one_in(8) {
            let last = self.known.len() - 1;
            // The last conversation continues more often.
            let n = if self.one_in(2) { last } else { self.random.random_range(0..=last) };
            let known = self.known[n];
            if self.one_in(16) {
                self.known.swap_remove(n);
            }
            return known;
        }
        let frontend = *world.frontends.keys().choose(&mut self.random).unwrap();
        let last = *CLIENTS.choose(&mut self.random).unwrap();
        let port = match self.random.random_range(0..8) {
            0 => TAKEN_PORT,
            1 => 999,
            _ => self.random.random_range(40_000..40_004),
        };
        let conversation = Conversation {
            client: (address(frontend.0.is_ipv4(), last), port),
            frontend,
            mac: CLIENT_MACS[usize::from(self.one_in(4))],
            place: self.place(),
        };
        self.known.push(conversation);
        conversation
    }

    fn place(&mut self) -> usize {
        match self.random.random_range(0..24) {
            0 => 2,
            1..5 => 1,
            _ => 0,
        }
    }

    /// From the client to the VIP.
    fn forward(&mut self, world: &World) -> Leg {
        let Conversation { client, frontend: (vip, port, protocol), mac, mut place } =
            self.conversation(world);
        // Now and then a packet comes by another way.
        if self.one_in(12) {
            place = self.place();
        }
        let link = links::at(world, place);
        Leg { from: client, to: (vip, port), protocol, mac, link, streams: STREAMS }
    }

    /// From the backend to one of our source addresses; now and then to a port that belongs to no flow.
    fn reply(&mut self, world: &World, memory: &Memory) -> Leg {
        let pending = !memory.pending_replies.is_empty() && self.one_in(2);
        let replies = if pending { &memory.pending_replies } else { &memory.replies };
        let Some(name) = replies.keys().choose(&mut self.random).copied() else { return self.forward(world) };
        let (backend, port, mut snat_port, protocol) = name;
        let reply = &replies[&name];
        let entry = world.backends.get(&reply.backend.0);
        let mut snat = entry.map_or(backend, |backend| backend.snat);
        if self.one_in(24) {
            snat_port ^= 1;
        }
        if self.one_in(24) {
            snat = *world
                .snat
                .iter()
                .filter(|snat| snat.is_ipv4() == backend.is_ipv4())
                .choose(&mut self.random)
                .unwrap();
        }
        // Nobody asks for backends of another family than their frontend.
        if snat.is_ipv4() != backend.is_ipv4() {
            return self.forward(world);
        }
        let link = links::at(world, self.place());
        let mac = [2, 0, 0, 0, 1, 0];
        let streams = (STREAMS.1, STREAMS.0 + 1);
        Leg { from: (backend, port), to: (snat, snat_port), protocol, mac, link, streams }
    }

    fn data(&mut self, leg: Leg) -> Arriving {
        let flags = match self.random.random_range(0..16) {
            0..5 => SYN,
            5..7 => SYN | ACK,
            7..12 => ACK,
            12 => ACK | 8,
            13 => FIN | ACK,
            14 => RST,
            _ => [SYN | 0xc0, RST | ACK, 0, SYN | FIN][self.random.random_range(0..4)],
        };
        let most = if self.one_in(64) { 1600 } else { 48 };
        let payload = self.random.random_range(0..most);
        let tcp = (flags, self.number(leg.streams.0), self.number(leg.streams.1));
        let segment = transport(&mut self.random, leg.from, leg.to, leg.protocol, tcp, payload);
        if segment.len() > 24 && self.one_in(6) {
            return self.fragments(leg, &segment);
        }
        self.arriving(leg, leg.from.0, leg.to.0, leg.protocol, None, &segment)
    }

    /// A sequence number of a stream: its place, a little before or behind it, where it can hardly be, or the number
    /// of somebody who does not know the stream.
    fn number(&mut self, place: u32) -> u32 {
        match self.random.random_range(0..16) {
            0..6 => place,
            6..12 => place - 200 + self.random.random_range(0..400),
            12 => place.wrapping_sub((1 << 20) - 1 + self.random.random_range(0..3)),
            13 => place.wrapping_add((1 << 26) - 1 + self.random.random_range(0..3)),
            _ => self.random.random(),
        }
    }

    /// One of the fragments; the others come later.
    fn fragments(&mut self, leg: Leg, segment: &[u8]) -> Arriving {
        let id = self.random.random_range(0..100_000);
        let words = if self.one_in(8) { 1..4 } else { 3..5 };
        let bytes = 8 * self.random.random_range(words);
        let count = segment.chunks(bytes).count();
        for (n, chunk) in segment.chunks(bytes).enumerate().take(6) {
            let part = Part { id, offset: n * bytes, is_last: n + 1 == count };
            let part = self.arriving(leg, leg.from.0, leg.to.0, leg.protocol, Some(part), chunk);
            self.parts.push(part);
        }
        let n = if self.one_in(4) {
            self.random.random_range(0..self.parts.len())
        } else {
            self.parts.len() - count.min(6)
        };
        self.parts.swap_remove(n)
    }

    fn arriving(
        &mut self,
        leg: Leg,
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        part: Option<Part>,
        rest: &[u8],
    ) -> Arriving {
        let bytes = packet(&mut self.random, from, to, protocol, part, rest);
        self.frame(leg, &bytes)
    }

    fn frame(&mut self, leg: Leg, packet: &[u8]) -> Arriving {
        let to = if self.one_in(64) { [2, 0, 0, 0, 9, 9] } else { leg.link.1 };
        Arriving { link: leg.link, bytes: ethernet(&mut self.random, (to, leg.mac), packet), is_right: true }
    }

    /// An ICMP error about a packet of the other direction.
    fn error(&mut self, leg: Leg) -> Arriving {
        let flags = [SYN | ACK, ACK, FIN][self.random.random_range(0..3)];
        let stream = leg.streams.1 - u32::from(self.one_in(2));
        let tcp = (flags, self.number(stream), leg.streams.0);
        let mut segment = transport(&mut self.random, leg.to, leg.from, leg.protocol, tcp, 12);
        match self.random.random_range(0..4) {
            0 => segment.truncate(8),
            1 => segment.truncate(20),
            _ => {}
        }
        let part =
            self.one_in(16).then(|| Part { id: 7, offset: 8 * usize::from(self.one_in(4)), is_last: false });
        let inside = packet(&mut self.random, leg.to.0, leg.from.0, leg.protocol, part, &segment);
        let router = address(leg.to.0.is_ipv4(), ROUTER);
        let to = if self.one_in(24) { router } else { leg.to.0 };
        let bytes = icmp(&mut self.random, router, to, &inside);
        self.frame(leg, &bytes)
    }

    /// An address that no other host has.
    fn no_foreign_host(&mut self, vip: IpAddr) -> IpAddr {
        let is_v4 = vip.is_ipv4();
        let own = [vip, address(is_v4, 2), address(is_v4, 1)];
        let v4 = [[127, 0, 0, 1], [0; 4], [255; 4], [224, 0, 0, 1], [0, 0, 0, 9]].map(IpAddr::from);
        let v6 = [Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 1])];
        let others = if is_v4 { v4.to_vec() } else { v6.map(IpAddr::from).to_vec() };
        *[&own[..], &others].concat().choose(&mut self.random).unwrap()
    }

    /// Packets that are not for llb, or that should not be on a wire.
    fn noise(&mut self, world: &World) -> Arriving {
        let mut leg = self.forward(world);
        match self.random.random_range(0..7) {
            6 => leg.from.0 = self.no_foreign_host(leg.to.0),
            0 => leg.to.1 = 9,
            1 => leg.to.0 = address(leg.to.0.is_ipv4(), 77),
            2 => {
                let bytes = icmp(&mut self.random, leg.from.0, leg.to.0, &[8; 24]);
                return self.frame(leg, &bytes);
            }
            3 => {
                let bytes = packet(&mut self.random, leg.from.0, leg.to.0, 132, None, &[5; 24]);
                return self.frame(leg, &bytes);
            }
            4 => {
                let bytes = [&leg.link.1[..], &leg.mac, &[8, 6], &[1; 46]].concat();
                return Arriving { link: leg.link, bytes, is_right: true };
            }
            // IPv4-mapped addresses in IPv6 headers.
            _ => {
                let mapped = |end: End, is_mapped| match end.0 {
                    IpAddr::V4(v4) if is_mapped => (v4.to_ipv6_mapped().into(), end.1),
                    IpAddr::V4(_) => (address(false, 1), end.1),
                    IpAddr::V6(_) if is_mapped => {
                        (Ipv4Addr::new(192, 0, 2, 10).to_ipv6_mapped().into(), end.1)
                    }
                    IpAddr::V6(_) => end,
                };
                (leg.from, leg.to) = (mapped(leg.from, true), mapped(leg.to, leg.to.0.is_ipv4()));
            }
        }
        leg.protocol = if self.one_in(2) { TCP } else { leg.protocol };
        self.data(leg)
    }
}
