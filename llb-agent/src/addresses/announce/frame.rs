//! The frames that announce a VIP: bytes from addresses, nothing else.
//!
//! Neighbours keep the MAC of an address for minutes. After a VIP moved to
//! this host they send to the old one until something corrects them: in IPv4
//! any ARP packet with the VIP as sender (RFC 826 "merge"), in IPv6 a Neighbor
//! Advertisement with the Override flag (RFC 4861 section 7.2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub(in crate::addresses) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// ff02::1, and its MAC (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

const NEXT_HEADER_ICMPV6: u8 = 58;

/// Receivers drop a Neighbor Advertisement with less: it came through a
/// router (RFC 4861 section 7.1.2).
const HOP_LIMIT: u8 = 255;

/// The Ethernet frame, without checksum and padding, that says that `vip` is
/// at `mac`.
pub(in crate::addresses) fn announcement(mac: Mac, vip: IpAddr) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp_announcement(mac, vip),
        IpAddr::V6(vip) => neighbor_advertisement(mac, vip),
    }
}

/// RFC 5227 section 2.3: an ARP request where sender and target address are
/// the VIP; layout RFC 826.
fn arp_announcement(mac: Mac, vip: Ipv4Addr) -> Vec<u8> {
    [
        &BROADCAST[..],
        &mac,
        &ETHERTYPE_ARP,
        &[0x00, 0x01], // Hardware: Ethernet,
        &[0x08, 0x00], // protocol: IPv4,
        &[6, 4],       // and the lengths of their addresses.
        &[0x00, 0x01], // Request.
        &mac,
        &vip.octets(),
        &[0; 6], // Nobody is asked.
        &vip.octets(),
    ]
    .concat()
}

/// RFC 4861 section 7.2.6: unsolicited, to all nodes, with the Override flag
/// and the target link-layer address; layout section 4.4.
fn neighbor_advertisement(mac: Mac, vip: Ipv6Addr) -> Vec<u8> {
    let mut icmp = [
        &[136, 0][..],    // Neighbor Advertisement.
        &[0, 0],          // Checksum, below.
        &[0x20, 0, 0, 0], // Override; neither Router nor Solicited.
        &vip.octets(),
        &[2, 1], // Option: target link-layer address, 8 bytes.
        &mac,
    ]
    .concat();
    let length = icmp.len() as u8;
    // The pseudo-header of RFC 8200 section 8.1 comes first.
    let summed =
        [&vip.octets()[..], &ALL_NODES.octets(), &[0, 0, 0, length], &[0, 0, 0, NEXT_HEADER_ICMPV6], &icmp];
    let checksum = internet_checksum(&summed.concat());
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    [
        &ALL_NODES_MAC[..],
        &mac,
        &ETHERTYPE_IPV6,
        &[0x60, 0, 0, 0], // Version 6.
        &[0, length, NEXT_HEADER_ICMPV6, HOP_LIMIT],
        &vip.octets(),
        &ALL_NODES.octets(),
        &icmp,
    ]
    .concat()
}

/// RFC 1071; `bytes` are of even length.
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

    const MAC: Mac = [0x02, 0x00, 0x5e, 0x10, 0x00, 0x01];

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
    fn an_ipv6_vip_is_announced_by_a_neighbor_advertisement_that_overrides() {
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
    fn another_implementation_reads_the_advertisement() {
        let vip: Ipv6Addr = "2001:db8::5".parse().unwrap();
        let frame = announcement(MAC, vip.into());
        let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ipv6)) = packet.net else { panic!("not IPv6") };
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("not ICMPv6") };
        assert!(icmp.is_checksum_valid(ipv6.header().source(), ipv6.header().destination()));
        let etherparse::Icmpv6Type::NeighborAdvertisement(header) = icmp.header().icmp_type else {
            panic!("not a Neighbor Advertisement")
        };
        assert!(header.r#override && !header.router && !header.solicited);
    }
}
