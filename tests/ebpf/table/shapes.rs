// SPDX-License-Identifier: Apache-2.0
//! Rows about what may surround TCP and UDP in a frame: fragments, options, extension headers, VLAN tags,
//! segments that the kernel will cut, and packets that are not llb's.

use llb_common::address::Address;
use llb_common::conntrack::{ACK, SYN};
use llb_common::frontend::TCP;
use llb_common::reason::Reason;

use super::early::fragment;
use super::everywhere;
use crate::frames::{Frame, checksum, ethernet, ip};
use crate::plane::{CLIENT_MAC, Family, Hook, NAT_PORT, Outcome, Plane};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_that_are_not_for_llb_pass_unchanged() {
    everywhere(|plane| {
        let own = plane.to_vip(NAT_PORT, TCP, SYN);
        let rows = [
            ("another port", Frame { to: (plane.vip(), 9), ..own.clone() }),
            ("another address", Frame { to: (plane.address(77), NAT_PORT), ..own.clone() }),
            ("another host's", Frame { macs: ([2, 9, 9, 9, 9, 9], CLIENT_MAC), ..own.clone() }),
            ("another protocol", Frame { protocol: 132, ..own }),
            ("nobody's reply", plane.reply_sent(ACK)),
        ];
        for (name, frame) in rows {
            assert_eq!(plane.run(&frame.bytes()), Outcome::Pass, "{name}");
        }
        assert!(Reason::ALL.into_iter().all(|reason| plane.reason(reason) == 0));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn fragments_follow_the_first_one() {
    everywhere(|plane| {
        let whole = plane.to_vip(NAT_PORT, TCP, ACK);
        let expected = plane.to_backend(ACK);
        let cut = |frame: &Frame, first: bool| fragment(frame, first);
        plane.expect("first", &cut(&whole, true), &cut(&expected, true));
        plane.expect("later", &cut(&whole, false), &cut(&expected, false));
        let (whole, expected) = (plane.reply_sent(ACK), plane.reply_received(ACK));
        plane.expect("first reply", &cut(&whole, true), &cut(&expected, true));
        plane.expect("later reply", &cut(&whole, false), &cut(&expected, false));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn options_extension_headers_and_priority_tags_are_looked_through() {
    everywhere(|plane| {
        let (sent, expected) = (plane.to_vip(NAT_PORT, TCP, SYN), plane.to_backend(SYN));
        let tagged = |frame: &Frame| {
            let mut bytes = frame.bytes();
            bytes.splice(12..12, [0x81, 0, 0xe0, 0]);
            bytes
        };
        // On a link, TC gets the tag beside the packet, not in it, except with two tags.
        plane.expect("tag", &tagged(&sent), &tagged(&expected));
        let twice = |frame: &Frame| {
            let mut bytes = tagged(frame);
            bytes.splice(12..12, [0x88, 0xa8, 0x60, 0]);
            bytes
        };
        plane.expect("two tags", &twice(&sent), &twice(&expected));
        let (answer, answered) = (plane.reply_sent(ACK), plane.reply_received(ACK));
        plane.expect("reply", &twice(&answer), &twice(&answered));
        if plane.family == Family::V6 {
            let with = |frame: &Frame| {
                let rest = [&[TCP, 0, 1, 4, 0, 0, 0, 0], &frame.transport()[..]].concat();
                ethernet(frame.macs, &ip(frame.from.0, frame.to.0, 0, frame.time_to_live, &rest))
            };
            plane.expect("hop by hop", &with(&sent), &with(&expected));
        } else {
            let with = |frame: &Frame| {
                let mut bytes = frame.bytes();
                bytes.splice(34..34, [1, 1, 1, 0]);
                bytes[14] = 0x46;
                bytes[17] += 4;
                bytes[24..26].fill(0);
                let sum = checksum(&bytes[14..38]);
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
                bytes
            };
            plane.expect("options", &with(&sent), &with(&expected));
        }
    });
}

/// Whoever else knows the addresses: a VLAN is a link of its own, with its own program, or with none.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn frames_in_a_vlan_are_of_another_link() {
    everywhere(|plane| {
        plane.handshake();
        let frames =
            [plane.to_vip(NAT_PORT, TCP, SYN), plane.to_vip(NAT_PORT, TCP, ACK), plane.reply_sent(ACK)];
        for frame in frames {
            for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0xe0, 9], &[0x81, 0, 0, 0, 0x81, 0, 0, 7]] {
                let mut bytes = frame.bytes();
                bytes.splice(12..12, tags.iter().copied());
                assert_eq!(plane.run(&bytes), Outcome::Pass, "{tags:02x?}");
            }
        }
        assert!(Reason::ALL.into_iter().all(|reason| plane.reason(reason) == 0));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_that_the_kernel_will_segment_may_exceed_the_mtu() {
    /// Size of `struct __sk_buff` (linux/bpf.h) in bytes, and the offsets of `gso_segs` and `gso_size`.
    const SKB: (usize, usize, usize) = (192, 164, 176);
    everywhere(|plane| {
        plane.handshake();
        let large = |frame: Frame| Frame { payload: vec![7; 2000], ..frame }.bytes();
        let sent = large(plane.to_vip(NAT_PORT, TCP, ACK));
        plane.expect_reason("one packet", &sent, Reason::TooBig);
        // XDP sees frames before the kernel joins segments.
        if plane.hook == Hook::Tc {
            let mut context = [0; SKB.0];
            context[SKB.1..][..4].copy_from_slice(&2_u32.to_ne_bytes());
            context[SKB.2..][..4].copy_from_slice(&1400_u32.to_ne_bytes());
            let outcome = plane.run_with(&sent, Some(&context));
            assert_eq!(outcome, Outcome::Sent(large(plane.to_backend(ACK))));
            // Each of its segments has the headers of the whole, of which none has options.
            let headers = if plane.family == Family::V4 { 40 } else { 60 };
            for (payload, is_sent) in [(1500 - headers, true), (1500 - headers + 1, false)] {
                context[SKB.2..][..4].copy_from_slice(&u32::to_ne_bytes(payload));
                let outcome = plane.run_with(&sent, Some(&context));
                assert_eq!(matches!(outcome, Outcome::Sent(_)), is_sent, "{payload}: {outcome:?}");
            }
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ipv4_addresses_in_ipv6_headers_are_left_to_the_kernel() {
    everywhere(|plane| {
        plane.handshake();
        let mapped = |address: Address| {
            if address.is_v4() { address.bytes() } else { Plane::address_of(Family::V4, 10).bytes() }
        };
        let own = plane.to_vip(NAT_PORT, TCP, ACK);
        let to = if plane.family == Family::V4 { mapped(own.to.0) } else { own.to.0.bytes() };
        let segment = own.transport();
        let header =
            [&[0x60, 0, 0, 0, 0, segment.len() as u8, TCP, 64][..], &mapped(own.from.0), &to].concat();
        let frame = ethernet(own.macs, &[header, segment].concat());
        assert_eq!(plane.run(&frame), Outcome::Pass);
    });
}
