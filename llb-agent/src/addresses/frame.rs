// SPDX-License-Identifier: Apache-2.0
//! Makes the frames about a VIP that llb sends to the segment. Pure; when each is
//! sent is decided elsewhere.
//!
//! Neighbours cache the MAC of an address for minutes. After a VIP moved to this
//! host, they send to the old host until a frame corrects them: in IPv4 any ARP
//! packet with the VIP as sender (RFC 826 "merge"), in IPv6 a Neighbor
//! Advertisement with the Override flag (RFC 4861 section 7.2.5). Some routers
//! ignore such unsolicited frames. But a router that is asked for its own MAC
//! learns the MAC of the host that asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::Mac;

const BROADCAST: Mac = Mac([0xff; 6]);
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The group of all nodes, and its MAC (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

pub(super) const NEXT_HEADER_ICMPV6: u8 = 58;
pub(super) const NEIGHBOR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// Receivers drop neighbour discovery with a lower hop limit, because it came
/// through a router (RFC 4861 section 7.1).
pub(super) const HOP_LIMIT: u8 = 255;

/// The Ethernet frame, without checksum and padding, that tells all hosts that
/// `vip` is at `mac`. IPv4: an ARP request in which the VIP is sender and target
/// (RFC 5227 section 2.3). IPv6: an unsolicited Neighbor Advertisement to all
/// nodes, with the Override flag and the target link-layer address (RFC 4861
/// section 7.2.6).
pub(super) fn announcement(mac: Mac, vip: IpAddr) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp_request(BROADCAST, mac, vip, vip),
        IpAddr::V6(vip) => {
            // Override; neither Router nor Solicited. Option: target link-layer address, 8 bytes.
            let body = [&[0x20, 0, 0, 0][..], &vip.octets(), &[2, 1], &mac.0].concat();
            icmpv6(ALL_NODES_MAC, mac, vip, ALL_NODES, NEIGHBOR_ADVERTISEMENT, &body)
        }
    }
}

/// The frame that asks whether a host has `vip`. It has no sender address, so
/// neighbours learn nothing from it. IPv4: RFC 5227 section 2.1.1. IPv6: RFC 4862
/// section 5.4.2; a host that has the address answers to all nodes (section 5.4.3).
pub(super) fn probe(mac: Mac, vip: IpAddr) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp_request(BROADCAST, mac, Ipv4Addr::UNSPECIFIED, vip),
        IpAddr::V6(vip) => {
            let (group, group_mac) = solicited_node(vip);
            let body = [&[0; 4][..], &vip.octets()].concat();
            icmpv6(group_mac, mac, Ipv6Addr::UNSPECIFIED, group, NEIGHBOR_SOLICITATION, &body)
        }
    }
}

/// The frame that asks `router` for its MAC with `vip` as the sender, from which
/// the router learns the MAC of `vip` (RFC 826; RFC 4861 section 7.2.3). It goes to
/// `router_mac` alone if that is known. `None` if the families differ.
pub(super) fn request(mac: Mac, vip: IpAddr, router: IpAddr, router_mac: Option<Mac>) -> Option<Vec<u8>> {
    match (vip, router) {
        (IpAddr::V4(vip), IpAddr::V4(router)) => {
            Some(arp_request(router_mac.unwrap_or(BROADCAST), mac, vip, router))
        }
        (IpAddr::V6(vip), IpAddr::V6(router)) => {
            let (group, group_mac) = solicited_node(router);
            let (to, to_mac) = router_mac.map_or((group, group_mac), |mac| (router, mac));
            // Option: source link-layer address, 8 bytes.
            let body = [&[0; 4][..], &router.octets(), &[1, 1], &mac.0].concat();
            Some(icmpv6(to_mac, mac, vip, to, NEIGHBOR_SOLICITATION, &body))
        }
        _ => None,
    }
}

/// Whether a frame is the answer of `router` to a [`request`] with `vip` as the sender.
pub(super) fn is_answer(frame: &[u8], router: IpAddr, vip: IpAddr) -> bool {
    const ARP_REPLY: [u8; 2] = [0x00, 0x02];
    let has = |at: usize, bytes: &[u8]| frame.get(at..at + bytes.len()) == Some(bytes);
    match (router, vip) {
        (IpAddr::V4(router), IpAddr::V4(vip)) => {
            let kind = has(12, &ETHERTYPE_ARP.to_be_bytes()) && has(20, &ARP_REPLY);
            kind && has(28, &router.octets()) && has(38, &vip.octets())
        }
        (IpAddr::V6(router), IpAddr::V6(vip)) => {
            let kind = has(12, &ETHERTYPE_IPV6.to_be_bytes()) && has(20, &[NEXT_HEADER_ICMPV6, HOP_LIMIT]);
            // The receiver, the kind, and the address that is told.
            kind && has(38, &vip.octets()) && has(54, &[NEIGHBOR_ADVERTISEMENT]) && has(62, &router.octets())
        }
        _ => false,
    }
}

/// An ARP request in an Ethernet frame. Layout: RFC 826.
fn arp_request(to: Mac, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    [
        &to.0[..],
        &mac.0,
        &ETHERTYPE_ARP.to_be_bytes(),
        &[0x00, 0x01], // Hardware: Ethernet,
        &[0x08, 0x00], // protocol: IPv4,
        &[6, 4],       // and the lengths of their addresses.
        &[0x00, 0x01], // Request.
        &mac.0,
        &sender.octets(),
        &[0; 6], // The MAC that is asked for.
        &target.octets(),
    ]
    .concat()
}

/// A message of neighbour discovery in an Ethernet frame. `body` follows the
/// checksum. Layout: RFC 4443 section 2.1, RFC 8200 section 3.
fn icmpv6(to_mac: Mac, mac: Mac, from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut icmp = [&[kind, 0, 0, 0][..], body].concat();
    let length = icmp.len() as u8;
    // The checksum includes the pseudo-header of RFC 8200 section 8.1.
    let summed =
        [&from.octets()[..], &to.octets(), &[0, 0, 0, length], &[0, 0, 0, NEXT_HEADER_ICMPV6], &icmp];
    let checksum = internet_checksum(&summed.concat());
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    [
        &to_mac.0[..],
        &mac.0,
        &ETHERTYPE_IPV6.to_be_bytes(),
        &[0x60, 0, 0, 0], // Version 6.
        &[0, length, NEXT_HEADER_ICMPV6, HOP_LIMIT],
        &from.octets(),
        &to.octets(),
        &icmp,
    ]
    .concat()
}

/// The multicast group of the hosts that have `address` (RFC 4291 section 2.7.1),
/// and the MAC of that group (RFC 2464 section 7).
fn solicited_node(address: Ipv6Addr) -> (Ipv6Addr, Mac) {
    let [.., a, b, c] = address.octets();
    let low = u16::from_be_bytes([b, c]);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
    (group, Mac([0x33, 0x33, 0xff, a, b, c]))
}

/// The checksum of RFC 1071. The number of bytes must be even.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.as_chunks().0.iter().map(|&pair| u32::from(u16::from_be_bytes(pair))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x02, 0x00, 0x5e, 0x10, 0x00, 0x01]);

    #[test]
    fn an_ipv4_vip_is_announced_by_an_arp_request_for_itself() {
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff,  0x02, 0x00, 0x5e, 0x10, 0x00, 0x01,  0x08, 0x06,
            0x00, 0x01,  0x08, 0x00,  0x06, 0x04,  0x00, 0x01,
            0x02, 0x00, 0x5e, 0x10, 0x00, 0x01,  192, 0, 2, 5,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  192, 0, 2, 5,
        ];
        assert_eq!(announcement(MAC, "192.0.2.5".parse().unwrap()), expected);
    }

    #[test]
    fn an_ipv6_vip_is_announced_by_a_neighbor_advertisement_with_override() {
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0x00, 0x00, 0x00, 0x01,  0x02, 0x00, 0x5e, 0x10, 0x00, 0x01,  0x86, 0xdd,
            0x60, 0x00, 0x00, 0x00,  0x00, 0x20,  0x3a,  0xff,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x05,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01,
            0x88, 0x00,  0x9b, 0x12,  0x20, 0x00, 0x00, 0x00,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x05,
            0x02, 0x01,  0x02, 0x00, 0x5e, 0x10, 0x00, 0x01,
        ];
        assert_eq!(announcement(MAC, "2001:db8::5".parse().unwrap()), expected);
    }

    #[test]
    fn a_probe_has_no_sender_address() {
        let arp = probe(MAC, "192.0.2.5".parse().unwrap());
        assert_eq!(arp[..6], [0xff; 6]);
        assert_eq!(arp[22..28], MAC.0);
        assert_eq!((&arp[28..32], &arp[38..42]), (&[0, 0, 0, 0][..], &[192, 0, 2, 5][..]));
        let frame = probe(MAC, "2001:db8::1:2345:6789".parse().unwrap());
        let (source, destination, kind) = read(&frame);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x45, 0x67, 0x89]);
        assert_eq!(source, Ipv6Addr::UNSPECIFIED);
        assert_eq!(destination, "ff02::1:ff45:6789".parse::<Ipv6Addr>().unwrap());
        assert!(matches!(kind, etherparse::Icmpv6Type::NeighborSolicitation), "{kind:?}");
    }

    #[test]
    fn a_router_is_asked_with_the_vip_as_sender() {
        let router_mac = Mac([2, 0, 0, 0, 0, 1]);
        let ask =
            |vip: &str, router: &str, mac| request(MAC, vip.parse().unwrap(), router.parse().unwrap(), mac);
        let arp = ask("192.0.2.5", "192.0.2.1", Some(router_mac)).unwrap();
        assert_eq!((&arp[..6], &arp[22..28]), (&router_mac.0[..], &MAC.0[..]));
        assert_eq!((&arp[28..32], &arp[38..42]), (&[192, 0, 2, 5][..], &[192, 0, 2, 1][..]));
        assert_eq!(ask("192.0.2.5", "192.0.2.1", None).unwrap()[..6], [0xff; 6]);

        let frame = ask("2001:db8::5", "fe80::1", Some(router_mac)).unwrap();
        assert_eq!(frame[..6], router_mac.0);
        assert_eq!(read(&frame).0, "2001:db8::5".parse::<Ipv6Addr>().unwrap());
        assert_eq!(read(&frame).1, "fe80::1".parse::<Ipv6Addr>().unwrap());
        let multicast = ask("2001:db8::5", "fe80::1", None).unwrap();
        assert_eq!(multicast[..6], [0x33, 0x33, 0xff, 0, 0, 1]);
        assert_eq!(ask("192.0.2.5", "fe80::1", None), None);
    }

    #[test]
    fn only_the_answer_to_this_question_counts() {
        let (router, vip, other) = ("192.0.2.1", "192.0.2.5", "192.0.2.6");
        let is_answer = |frame: &[u8], router: &str, vip: &str| {
            is_answer(frame, router.parse().unwrap(), vip.parse().unwrap())
        };
        // The router asks for the VIP; as a reply, the frame says who has the router's address.
        let mut frame = request(MAC, router.parse().unwrap(), vip.parse().unwrap(), None).unwrap();
        assert!(!is_answer(&frame, router, vip), "a question");
        frame[21] = 2;
        assert!(is_answer(&frame, router, vip));
        assert!(!is_answer(&frame, router, other) && !is_answer(&frame, other, vip));
        assert!(!is_answer(&frame[..40], router, vip), "truncated");

        let mut frame = announcement(MAC, "2001:db8::1".parse().unwrap());
        assert!(!is_answer(&frame, "2001:db8::1", "2001:db8::5"), "to all nodes");
        frame[38..54].copy_from_slice(&"2001:db8::5".parse::<Ipv6Addr>().unwrap().octets());
        assert!(is_answer(&frame, "2001:db8::1", "2001:db8::5"));
        assert!(!is_answer(&frame, "2001:db8::2", "2001:db8::5"));
    }

    #[test]
    fn another_implementation_reads_the_advertisement() {
        let frame = announcement(MAC, "2001:db8::5".parse().unwrap());
        let etherparse::Icmpv6Type::NeighborAdvertisement(header) = read(&frame).2 else {
            panic!("not a Neighbor Advertisement")
        };
        assert!(header.r#override && !header.router && !header.solicited);
    }

    /// The source, destination and type, as another implementation reads them.
    fn read(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, etherparse::Icmpv6Type) {
        let packet = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ipv6)) = packet.net else { panic!("not IPv6") };
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("not ICMPv6") };
        assert!(icmp.is_checksum_valid(ipv6.header().source(), ipv6.header().destination()));
        (ipv6.header().source_addr(), ipv6.header().destination_addr(), icmp.header().icmp_type)
    }
}
