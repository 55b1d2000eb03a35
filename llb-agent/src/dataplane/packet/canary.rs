// SPDX-License-Identifier: Apache-2.0
//! Canaries as bytes: the SYN that asks a Node whether it has a rule for a VIP and a port, what is heard of it, and
//! the reset that ends what an answer has begun. Pure. Who is asked is decided in `readiness/`.
//!
//! A canary comes from an address of this machine, so answers come here, and from a port of [`CANARY_PORTS`]. It
//! goes to the Node with the time to live of mode dsr, so the programs know that it was at a Node when it comes
//! back; they leave it to the kernel (`Reason::Canary`). That drops it in IPv4, because its source is this machine. In
//! IPv6 it answers with a reset over the loopback link, which nothing takes for the answer of a Node.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use llb_common::address::{Address, Mac};
use llb_common::backend::BackendEntry;
use llb_common::conntrack::{ACK, RST, SYN};
use llb_common::frontend::{DSR_TIME_TO_LIVE, TCP};
use llb_common::parse::{Packet, Shape, parse};

use super::canary_filter::CANARY_PORTS;
use super::readiness::{Heard, Pair};

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// How frames get to a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) ifindex: u32,
    source_mac: Mac,
    mac: Mac,
    /// An address of this machine.
    source: IpAddr,
}

impl Way {
    /// The way that a backend's entry has. `None`: it has none now, or the VIP is the only address of this machine.
    pub(super) fn of(entry: &BackendEntry) -> Option<Self> {
        let has_way = entry.ifindex != 0 && !entry.mac.is_unknown() && !entry.snat.is_unspecified();
        (has_way && entry.snat != entry.vip && entry.snat.is_v4() == entry.vip.is_v4()).then(|| Self {
            ifindex: entry.ifindex,
            source_mac: entry.source_mac,
            mac: entry.mac,
            source: entry.snat.into(),
        })
    }
}

/// A canary that was sent.
#[derive(Clone, Copy, Debug)]
struct Canary {
    pair: Pair,
    way: Way,
    port: u16,
    sequence: u32,
}

/// The reset that ends what an answer has begun, and the link by which it leaves.
pub(super) type Reset = (u32, Vec<u8>);

/// The canaries that were sent last, by their ports.
#[derive(Debug, Default)]
pub(super) struct Canaries {
    sent: HashMap<u16, Canary>,
    count: u64,
    /// Makes sequence numbers that nobody else knows, so that nobody else can answer.
    random: RandomState,
}

impl Canaries {
    /// The frame of a new canary.
    pub(super) fn next(&mut self, pair: Pair, way: Way) -> Option<Vec<u8>> {
        self.count += 1;
        let port = CANARY_PORTS.start() + (self.count % CANARY_PORTS.len() as u64) as u16;
        let canary = Canary { pair, way, port, sequence: self.random.hash_one(self.count) as u32 };
        self.sent.insert(port, canary);
        canary.frame(SYN, canary.sequence)
    }

    /// What a frame says about a canary. With an answer comes the reset to send next.
    pub(super) fn hear(&self, frame: &[u8]) -> Option<(Pair, Heard, Option<Reset>)> {
        let mut packet = Packet::default();
        let shape = parse(frame, &mut packet).ok()?;
        if packet.protocol != TCP || shape == Shape::LaterFragment {
            return None;
        }
        let is_known = |port: u16| self.sent.get(&port).copied();
        if let Some(canary) = is_known(packet.source_port.number()).filter(|canary| canary.is_back(&packet)) {
            return Some((canary.pair, Heard::SentBack, None));
        }
        let canary = is_known(packet.destination_port.number()).filter(|canary| canary.is_about(&packet))?;
        if shape == Shape::Error {
            let is_same = packet.sequence() == canary.sequence;
            return is_same.then_some((canary.pair, Heard::SentBack, None));
        }
        let next = canary.sequence.wrapping_add(1);
        if packet.acknowledged() != next || packet.tcp_flags & (SYN | RST) == 0 {
            return None;
        }
        // Else the Pod would wait for a client that does not exist.
        let reset = (packet.tcp_flags & RST == 0).then(|| canary.frame(RST, next)).flatten();
        Some((canary.pair, Heard::Answered, reset.map(|frame| (canary.way.ifindex, frame))))
    }
}

impl Canary {
    fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.pair.frontend.vip, self.pair.frontend.port.get())
    }

    /// Whether this is the canary itself, from a Node.
    fn is_back(&self, packet: &Packet) -> bool {
        let ends = (packet.source, packet.destination, packet.destination_port.number());
        packet.shape == Shape::Transport as u8
            && packet.destination_mac == self.way.source_mac
            && ends == (Address::from(self.way.source), Address::from(self.vip().ip()), self.vip().port())
            && (packet.tcp_flags & (SYN | ACK), packet.sequence()) == (SYN, self.sequence)
            && packet.time_to_live < DSR_TIME_TO_LIVE
    }

    /// Whether this is from VIP and port to this canary, or an ICMP error about it.
    fn is_about(&self, packet: &Packet) -> bool {
        let ends = (packet.source, packet.source_port.number(), packet.destination);
        // What this machine itself says about a canary that came back goes over the loopback link, without MACs.
        packet.destination_mac == self.way.source_mac
            && ends == (Address::from(self.vip().ip()), self.vip().port(), Address::from(self.way.source))
    }

    fn frame(&self, flags: u8, sequence: u32) -> Option<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.way.source_mac.bytes(), self.way.mac.bytes());
        let step = match (self.way.source, self.vip().ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), DSR_TIME_TO_LIVE),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), DSR_TIME_TO_LIVE),
            _ => return None,
        };
        let step = step.tcp(self.port, self.vip().port(), sequence, u16::MAX);
        let step = if flags == SYN { step.syn() } else { step.rst() };
        let mut bytes = Vec::new();
        step.write(&mut bytes, &[]).ok()?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::icmpv6::DestUnreachableCode;
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilderStep, TcpHeader};
    use llb_common::address::WirePort;

    use super::super::canary_filter::{filter, passes};
    use super::*;
    use crate::model::{Frontend, Port, Protocol};

    const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    struct World {
        canaries: Canaries,
        pair: Pair,
        sent: Vec<u8>,
        ports: (u16, u16),
        sequence: u32,
    }

    fn entry(vip: IpAddr, source: IpAddr) -> BackendEntry {
        BackendEntry {
            ifindex: 7,
            vip: vip.into(),
            vip_port: WirePort::new(80),
            snat: source.into(),
            mac: Mac::new(NODE_MAC),
            source_mac: Mac::new(OWN_MAC),
            ..BackendEntry::zeroed()
        }
    }

    /// A canary that was sent, for each family.
    fn worlds() -> [World; 2] {
        [("192.0.2.100", "192.0.2.20", "192.0.2.31"), ("2001:db8::100", "2001:db8::20", "2001:db8::31")].map(
            |(vip, source, node)| {
                let vip: IpAddr = vip.parse().unwrap();
                let frontend = Frontend { vip, port: Port::new(80).unwrap(), protocol: Protocol::Tcp };
                let pair = Pair { frontend, node: node.parse().unwrap() };
                let way = Way::of(&entry(vip, source.parse().unwrap())).unwrap();
                let mut canaries = Canaries::default();
                let sent = canaries.next(pair, way).unwrap();
                let mut packet = Packet::default();
                parse(&sent[..], &mut packet).unwrap();
                let ports = (packet.source_port.number(), packet.destination_port.number());
                World { canaries, pair, sent, ports, sequence: packet.sequence() }
            },
        )
    }

    impl World {
        fn is_v6(&self) -> bool {
            self.pair.frontend.vip.is_ipv6()
        }

        /// The canary as it comes from the Node, with this time to live.
        fn back(&self, time_to_live: u8) -> Vec<u8> {
            let mut frame = [&OWN_MAC[..], &NODE_MAC, &self.sent[12..]].concat();
            frame[if self.is_v6() { 21 } else { 22 }] = time_to_live;
            frame
        }

        /// An answer from VIP and port.
        fn answer(&self, ack: u32, flags: impl Fn(&mut TcpHeader)) -> Vec<u8> {
            let mut header = TcpHeader::new(self.ports.1, self.ports.0, 99, 1000);
            (header.ack, header.acknowledgment_number) = (true, ack);
            flags(&mut header);
            self.frame(|step| {
                let mut frame = Vec::new();
                step.tcp_header(header.clone()).write(&mut frame, &[]).unwrap();
                frame
            })
        }

        /// A frame from the VIP to this machine.
        fn frame(&self, rest: impl Fn(PacketBuilderStep<etherparse::IpHeaders>) -> Vec<u8>) -> Vec<u8> {
            let ethernet = PacketBuilder::ethernet2(NODE_MAC, OWN_MAC);
            let own: IpAddr = if self.is_v6() { "2001:db8::20" } else { "192.0.2.20" }.parse().unwrap();
            rest(match (self.pair.frontend.vip, own) {
                (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 62),
                (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 62),
                _ => unreachable!(),
            })
        }

        fn hear(&self, frame: &[u8]) -> Option<Heard> {
            let (pair, heard, _) = self.canaries.hear(frame)?;
            assert_eq!(pair, self.pair);
            // What is understood must pass the kernel's filter.
            assert!(passes(&filter(self.is_v6()), frame));
            Some(heard)
        }
    }

    #[test]
    fn a_canary_is_a_syn_with_valid_checksums() {
        for world in worlds() {
            let packet = etherparse::SlicedPacket::from_ethernet(&world.sent).unwrap();
            let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            assert!(tcp.syn() && !tcp.ack() && CANARY_PORTS.contains(&tcp.source_port()));
            let sum = match packet.net.unwrap() {
                etherparse::NetSlice::Ipv4(ip) => {
                    tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), &[])
                }
                etherparse::NetSlice::Ipv6(ip) => {
                    tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), &[])
                }
                _ => unreachable!(),
            };
            assert_eq!(sum.unwrap(), tcp.checksum());
        }
    }

    #[test]
    fn a_canary_that_comes_back_was_at_a_node() {
        for world in worlds() {
            for time_to_live in [15, 14, 1] {
                assert_eq!(world.hear(&world.back(time_to_live)), Some(Heard::SentBack));
            }
            assert_eq!(world.hear(&world.back(16)), None);
            let mut other = world.back(15);
            let at = if world.is_v6() { 58 } else { 38 };
            other[at] ^= 1;
            assert_eq!(world.hear(&other), None, "another sequence number");
        }
    }

    #[test]
    fn an_answer_comes_from_the_vip_and_knows_the_canary() {
        for world in worlds() {
            let next = world.sequence.wrapping_add(1);
            let syn_ack = world.answer(next, |tcp| tcp.syn = true);
            assert_eq!(world.hear(&syn_ack), Some(Heard::Answered));
            let (_, _, reset) = world.canaries.hear(&syn_ack).unwrap();
            let (ifindex, reset) = reset.unwrap();
            let mut packet = Packet::default();
            parse(&reset[..], &mut packet).unwrap();
            assert_eq!((ifindex, packet.tcp_flags, packet.sequence()), (7, RST, next));
            assert_eq!((packet.source_port.number(), packet.destination_port.number()), world.ports);

            let refusal = world.answer(next, |tcp| tcp.rst = true);
            assert_eq!(world.hear(&refusal), Some(Heard::Answered));
            assert!(world.canaries.hear(&refusal).unwrap().2.is_none(), "there is nothing to end");
            let mut own = refusal.clone();
            own[..12].fill(0);
            assert_eq!(world.hear(&own), None, "this machine's own refusal of a canary that came back");
            for forged in [world.answer(next + 1, |tcp| tcp.syn = true), world.answer(next, |_| ())] {
                assert_eq!(world.hear(&forged), None);
            }
        }
    }

    #[test]
    fn an_icmp_error_about_a_canary_says_that_there_is_no_rule() {
        for world in worlds() {
            let about = &world.sent[14..];
            let error = world.frame(|step| {
                let mut frame = Vec::new();
                if world.is_v6() {
                    let kind = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);
                    step.icmpv6(kind).write(&mut frame, about).unwrap();
                } else {
                    let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
                    step.icmpv4(kind).write(&mut frame, about).unwrap();
                }
                frame
            });
            assert_eq!(world.hear(&error), Some(Heard::SentBack));
        }
    }

    #[test]
    fn a_node_is_not_asked_from_the_vip_or_without_a_way() {
        let vip: IpAddr = "192.0.2.100".parse().unwrap();
        assert_eq!(Way::of(&entry(vip, vip)), None);
        assert_eq!(Way::of(&entry(vip, "2001:db8::20".parse().unwrap())), None);
        let lost = BackendEntry { mac: Mac::default(), ..entry(vip, "192.0.2.20".parse().unwrap()) };
        assert_eq!(Way::of(&lost), None);
    }
}
