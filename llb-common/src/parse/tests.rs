// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Frames as tables of bytes: whether bytes become the right fields. What the programs do with a packet is
//! tested in `tests/ebpf/`.

extern crate std;

use core::net::IpAddr;
use std::vec::Vec;

use super::icmp::{ICMP, ICMPV6};
use super::ip::{AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, IPV4_BYTES, IPV6_BYTES, ROUTING};
use super::read::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::{Packet, Shape, Unparsed, parse, parse_plain};
use crate::address::{Address, Mac};
use crate::conntrack::{ACK, SYN};
use crate::frontend::{TCP, UDP};
use crate::hash::mix;

const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const TCP_HEADER: [u8; 20] = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 1, 0, 7, 7, 0, 0];

fn v4(protocol: u8, flags: u16, options: &[u8], rest: &[u8]) -> Vec<u8> {
    let header_bytes = 20 + options.len();
    let mut bytes = [&[0x45, 0, 0, 0, 0x12, 0x34][..], &flags.to_be_bytes(), &[64, protocol, 0, 0]].concat();
    bytes.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    bytes[0] = 0x40 | (header_bytes / 4) as u8;
    bytes[2..4].copy_from_slice(&((header_bytes + rest.len()) as u16).to_be_bytes());
    [&bytes, options, rest].concat()
}

fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0x60, 0, 0, 0][..], &(rest.len() as u16).to_be_bytes(), &[next, 63]].concat();
    for last in [1, 2] {
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    [&bytes, rest].concat()
}

fn frame(tags: &[u8], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&ETHERNET, tags, &ethertype.to_be_bytes(), packet].concat()
}

fn parsed(frame: &[u8]) -> Result<(Shape, Packet), Unparsed> {
    let mut packet = Packet::default();
    let whole = parse(frame, &mut packet).map(|shape| (shape, packet));
    // `parse_plain` finds the same, or nothing.
    let mut packet = Packet::default();
    match parse_plain(frame, &mut packet) {
        Err(Unparsed::NotPlain) => {}
        plain => assert_eq!(plain.map(|shape| (shape, packet)), whole),
    }
    whole
}

fn ip(address: Address) -> std::string::String {
    std::string::ToString::to_string(&IpAddr::from(address))
}

#[test]
fn parse_plain_reads_plain_packets_of_both_families() {
    let (v4, v6) = (v4(TCP, 0, &[], &TCP_HEADER), v6(UDP, &TCP_HEADER));
    for bytes in [frame(&[], ETHERTYPE_IPV4, &v4), frame(&[], ETHERTYPE_IPV6, &v6)] {
        assert!(parse_plain(&bytes[..], &mut Packet::default()).is_ok());
    }
}

#[test]
fn both_families_give_the_same_fields() {
    let hop_by_hop = [&[TCP, 1][..], &[0; 14], &TCP_HEADER].concat();
    let fragment = [&[TCP, 0, 0, 0, 0, 0, 0, 9][..], &TCP_HEADER].concat();
    let rows = [
        (frame(&[], ETHERTYPE_IPV4, &v4(TCP, 0, &[], &TCP_HEADER)), 14, 34, "192.0.2.2"),
        (frame(&[], ETHERTYPE_IPV4, &v4(TCP, 0, &[1; 8], &TCP_HEADER)), 14, 42, "192.0.2.2"),
        (frame(&[0x81, 0, 0xf0, 0], ETHERTYPE_IPV4, &v4(TCP, 0, &[], &TCP_HEADER)), 18, 38, "192.0.2.2"),
        (
            frame(&[0x88, 0xa8, 0x20, 0, 0x81, 0, 0, 0], ETHERTYPE_IPV6, &v6(TCP, &TCP_HEADER)),
            22,
            62,
            "2001:db8::2",
        ),
        (frame(&[], ETHERTYPE_IPV6, &v6(HOP_BY_HOP, &hop_by_hop)), 14, 70, "2001:db8::2"),
        (frame(&[], ETHERTYPE_IPV6, &v6(FRAGMENT, &fragment)), 14, 62, "2001:db8::2"),
    ];
    for (number, (frame, l3, l4, destination)) in rows.into_iter().enumerate() {
        let (shape, packet) = parsed(&frame).unwrap();
        assert_eq!(shape, Shape::Transport, "row {number}");
        assert_eq!(
            (packet.l3, packet.l4, ip(packet.destination).as_str()),
            (l3, l4, destination),
            "row {number}"
        );
        assert_eq!((packet.source_port.number(), packet.destination_port.number()), (40_000, 80));
        assert_eq!((packet.tcp_flags, packet.protocol), (SYN, TCP));
        assert_eq!((packet.sequence(), packet.acknowledged()), (1, 0));
        assert_eq!(usize::from(packet.length), frame.len() - usize::from(l3));
        assert_eq!(packet.source_mac, Mac::new([2, 0, 0, 0, 0, 2]));
        // A frame that is cut anywhere is never misread.
        for length in 0..usize::from(l4) + TCP_HEADER.len() {
            assert_eq!(parsed(&frame[..length]), Err(Unparsed::Truncated), "row {number}, {length} bytes");
        }
    }
}

#[test]
fn a_frame_in_a_vlan_is_of_another_link() {
    let packet = v4(TCP, 0, &[], &TCP_HEADER);
    for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0xef, 0xff], &[0x88, 0xa8, 0, 0, 0x81, 0, 1, 0]] {
        assert_eq!(parsed(&frame(tags, ETHERTYPE_IPV4, &packet)), Err(Unparsed::Other), "{tags:02x?}");
    }
}

#[test]
fn first_and_later_fragments_are_recognized() {
    let shape = |flags| parsed(&frame(&[], ETHERTYPE_IPV4, &v4(TCP, flags, &[], &TCP_HEADER))).unwrap();
    assert_eq!((shape(0x4000).0, shape(0x4000).1.is_first_fragment), (Shape::Transport, 0));
    assert_eq!((shape(0x2000).0, shape(0x2000).1.is_first_fragment), (Shape::Transport, 1));
    assert_eq!((shape(0x2001).0, shape(0x0001).0), (Shape::LaterFragment, Shape::LaterFragment));
    let later = [&[UDP, 0, 0, 8, 1, 2, 3, 4][..], &[0xff; 8]].concat();
    let (shape, packet) = parsed(&frame(&[], ETHERTYPE_IPV6, &v6(FRAGMENT, &later))).unwrap();
    assert_eq!(
        (shape, packet.protocol, packet.fragment_id),
        (Shape::LaterFragment, UDP, u32::from_ne_bytes([1, 2, 3, 4]))
    );
}

#[test]
fn an_icmp_error_gives_the_flow_that_it_is_about_with_ends_swapped() {
    let inside = v4(UDP, 0, &[], &[0, 80, 0x9c, 0x40, 0, 8, 0, 0]);
    let mut error = v4(ICMP, 0, &[], &[&[3, 4, 0, 0, 0, 0, 5, 0], &inside[..]].concat());
    error[16..20].copy_from_slice(&[192, 0, 2, 1]);
    error[12..16].copy_from_slice(&[198, 51, 100, 1]);
    let (shape, packet) = parsed(&frame(&[], ETHERTYPE_IPV4, &error)).unwrap();
    assert_eq!((shape, packet.inner_l3, packet.inner_l4), (Shape::Error, 42, 62));
    assert_eq!((ip(packet.source).as_str(), ip(packet.destination).as_str()), ("192.0.2.2", "192.0.2.1"));
    assert_eq!((packet.source_port.number(), packet.destination_port.number()), (40_000, 80));
    assert_eq!(ip(packet.outer_source), "198.51.100.1");
    assert_eq!(packet.sequence(), 0, "of UDP");
    for (kind, code, is_unreachable) in [(3, 4, 0), (3, 3, 1), (3, 13, 1), (11, 0, 0), (12, 3, 0)] {
        error[20..22].copy_from_slice(&[kind, code]);
        let packet = parsed(&frame(&[], ETHERTYPE_IPV4, &error)).unwrap().1;
        assert_eq!(packet.is_unreachable, is_unreachable, "type {kind}, code {code}");
    }
    // An error that was sent to a host that did not send the packet inside.
    error[16..20].copy_from_slice(&[192, 0, 2, 9]);
    assert_eq!(parsed(&frame(&[], ETHERTYPE_IPV4, &error)), Err(Unparsed::Other));
    error[16..20].copy_from_slice(&[192, 0, 2, 1]);
    // The ports are behind the end of the IP packet, in bytes that are only in the frame.
    for (length, is_cut) in [(56, false), (55, true)] {
        error[3] = length;
        assert_eq!(parsed(&frame(&[], ETHERTYPE_IPV4, &error)).unwrap().1.is_cut(), is_cut, "{length}");
    }
    // An echo request.
    assert_eq!(parsed(&frame(&[], ETHERTYPE_IPV4, &v4(ICMP, 0, &[], &[8; 16]))), Err(Unparsed::Other));
}

#[test]
fn frames_that_are_not_understood_give_no_flow() {
    let routed = [&[TCP, 0, 4, 1, 0, 0, 0, 0][..], &TCP_HEADER].concat();
    let mut short_header = v4(TCP, 0, &[], &TCP_HEADER);
    short_header[0] = 0x44;
    let mut mapped = v6(TCP, &TCP_HEADER);
    mapped[8..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    let endless = [[DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0]; 8].concat();
    for bytes in [
        frame(&[], 0x88cc, &[0; 40]),
        frame(&[], ETHERTYPE_IPV4, &v4(132, 0, &[], &TCP_HEADER)),
        frame(&[], ETHERTYPE_IPV4, &short_header),
        frame(&[], ETHERTYPE_IPV4, &v6(TCP, &TCP_HEADER)),
        frame(&[], ETHERTYPE_IPV6, &v6(ROUTING, &routed)),
        frame(&[], ETHERTYPE_IPV6, &mapped),
        frame(&[], ETHERTYPE_IPV6, &v6(DESTINATION_OPTIONS, &endless)),
    ] {
        assert_eq!(parsed(&bytes), Err(Unparsed::Other));
    }
}

#[test]
fn a_udp_packet_without_checksum_is_recognized() {
    let udp = |checksum| v4(UDP, 0, &[], &[0, 1, 0, 2, 0, 8, 0, checksum]);
    for checksum in [0, 1] {
        let (_, packet) = parsed(&frame(&[], ETHERTYPE_IPV4, &udp(checksum))).unwrap();
        assert_eq!((packet.has_checksum, packet.tcp_flags & ACK), (checksum, 0));
    }
}

/// A frame of each kind, which the test below breaks.
fn kinds() -> Vec<Vec<u8>> {
    let extension = |kind: u8, words: u8| {
        [&[kind, words, 0, 0, 0, 0, 0, 0][..], &[0; 40][..usize::from(words) * 8]].concat()
    };
    let chain = [extension(ROUTING, 2), extension(FRAGMENT, 1), extension(AUTHENTICATION, 0)].concat();
    let chain = [&chain, &extension(TCP, 4)[..], &TCP_HEADER].concat();
    let udp = [0, 80, 0x9c, 0x40, 0, 8, 0, 0];
    let inside = (v4(TCP, 0, &[1; 40], &TCP_HEADER), v6(HOP_BY_HOP, &chain));
    let mut error = (
        v4(ICMP, 0, &[], &[&[3, 4, 0, 0, 0, 0, 5, 0], &inside.0[..]].concat()),
        v6(ICMPV6, &[&[2, 0, 0, 0, 0, 0, 5, 0], &inside.1[..]].concat()),
    );
    // Sent to the host that sent the packet inside.
    error.0[19] = 1;
    error.1[39] = 1;
    let tags = [0x88, 0xa8, 0x20, 0, 0x81, 0, 0xe0, 0];
    [
        (&[][..], ETHERTYPE_IPV4, v4(UDP, 0, &[], &udp)),
        (&tags[4..], ETHERTYPE_IPV4, inside.0),
        (&tags, ETHERTYPE_IPV6, inside.1),
        (&[], ETHERTYPE_IPV4, error.0),
        (&tags, ETHERTYPE_IPV6, error.1),
    ]
    .iter()
    .map(|(tags, ethertype, packet)| frame(tags, *ethertype, packet))
    .collect()
}

#[test]
fn no_bytes_make_it_panic_or_give_offsets_outside_the_frame() {
    /// All offsets must fit into the mask that the programs put on them.
    const MAX_OFFSET: usize = 0x7ff;
    const FRAMES: u64 = 300_000;
    let kinds = kinds();
    let mut shapes = [0_u64; 4];
    for seed in 0..FRAMES {
        let mut state = mix(seed);
        let mut random = |below: usize| {
            state = mix(state);
            (state >> 32) as usize % below
        };
        let mut bytes = kinds[random(kinds.len())].clone();
        for _ in 0..random(4) {
            let at = random(bytes.len());
            bytes[at] = [0, 1, 44, 58, 255, random(256) as u8][random(6)];
        }
        if random(4) == 0 {
            bytes.truncate(random(bytes.len() + 1));
        }
        let Ok((shape, packet)) = parsed(&bytes) else {
            shapes[0] += 1;
            continue;
        };
        shapes[shape as usize] += 1;
        let header = |is_v6| if is_v6 { IPV6_BYTES } else { IPV4_BYTES };
        let inside = |offset: u16, length: usize| {
            usize::from(offset) + length <= bytes.len() && usize::from(offset) < MAX_OFFSET
        };
        assert_eq!(packet.shape, shape as u8, "{seed}");
        assert!(packet.l3 >= 14 && inside(packet.l3, header(packet.is_v6 == 1)), "{seed}");
        assert!(packet.l4 >= packet.l3, "{seed}");
        match shape {
            Shape::Transport => {
                assert!(inside(packet.l4, if packet.protocol == TCP { 20 } else { 8 }), "{seed}")
            }
            Shape::LaterFragment => {}
            Shape::Error => {
                assert!(inside(packet.l4, 8) && inside(packet.inner_l3, header(packet.is_v6 == 1)), "{seed}");
                assert!(packet.inner_l4 > packet.inner_l3 && inside(packet.inner_l4, 8), "{seed}");
            }
        }
    }
    assert!(shapes.iter().all(|count| *count > FRAMES / 100), "{shapes:?}");
}
