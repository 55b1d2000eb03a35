// SPDX-License-Identifier: Apache-2.0
//! Rows about ICMP: errors reach the end that they are about; everything else is left to the kernel.

use llb_common::conntrack::ACK;
use llb_common::frontend::TCP;
use llb_common::reason::Reason;

use super::early::fragment;
use super::everywhere;
use crate::frames::{Frame, checksum, ethernet, icmp_error, ip, l4_checksum, set_time_to_live};
use crate::plane::{BACKEND_MAC, CLIENT_MAC, LB_MAC, NAT_PORT, Outcome};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_reach_the_end_that_they_are_about() {
    everywhere(|plane| {
        plane.handshake();
        let inside = |frame: Frame| ip(frame.from.0, frame.to.0, TCP, 60, &frame.transport());
        // From a router on the client's side, about a packet that the client gets.
        let seen = inside(plane.reply_received(ACK));
        let meant = inside(plane.reply_sent(ACK));
        let sent = icmp_error((LB_MAC, CLIENT_MAC), plane.address(99), plane.vip(), &seen);
        let mut expected = icmp_error((BACKEND_MAC, LB_MAC), plane.snat(), plane.backend_address(), &meant);
        plane.expect("to the backend", &sent, lower_time_to_live(&mut expected));
        // From a router before the backend, about a packet that the backend gets.
        let seen = inside(plane.to_backend(ACK));
        let meant = inside(plane.to_vip(NAT_PORT, TCP, ACK));
        let sent = icmp_error((LB_MAC, BACKEND_MAC), plane.address(98), plane.snat(), &seen);
        let mut expected = icmp_error((CLIENT_MAC, LB_MAC), plane.vip(), plane.client(), &meant);
        plane.expect("to the client", &sent, lower_time_to_live(&mut expected));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nobody_is_told_about_an_error_or_a_later_fragment() {
    everywhere(|plane| {
        plane.handshake();
        let ends = |mut frame: Vec<u8>| {
            set_time_to_live(&mut frame, 1);
            frame
        };
        let packet = ends(plane.to_vip(NAT_PORT, TCP, ACK).bytes());
        plane.expect_reason("packet", &packet, Reason::TimeToLive);
        assert_eq!(plane.program.notices(), 1);

        let seen = plane.reply_received(ACK);
        let inside = ip(seen.from.0, seen.to.0, TCP, 60, &seen.transport());
        let error = icmp_error((LB_MAC, CLIENT_MAC), plane.address(99), plane.vip(), &inside);
        plane.expect_reason("error", &ends(error), Reason::TimeToLive);
        let whole = plane.to_vip(NAT_PORT, TCP, ACK);
        assert!(matches!(plane.run(&fragment(&whole, true)), Outcome::Sent(_)));
        plane.expect_reason("later fragment", &ends(fragment(&whole, false)), Reason::TimeToLive);
        assert_eq!(plane.program.notices(), 0);
    });
}

/// Lowers a time to live of 64 in a whole frame.
fn lower_time_to_live(frame: &mut [u8]) -> &[u8] {
    set_time_to_live(frame, 63);
    frame
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn bytes_after_an_error_in_its_frame_stay_unchanged() {
    everywhere(|plane| {
        plane.handshake();
        // Eight bytes of the TCP header; other bytes follow where its checksum would be.
        let inside = |frame: Frame| ip(frame.from.0, frame.to.0, TCP, 60, &frame.transport()[..8]);
        let seen = inside(plane.reply_received(ACK));
        let meant = inside(plane.reply_sent(ACK));
        let mut sent = icmp_error((LB_MAC, CLIENT_MAC), plane.address(99), plane.vip(), &seen);
        let mut expected = icmp_error((BACKEND_MAC, LB_MAC), plane.snat(), plane.backend_address(), &meant);
        lower_time_to_live(&mut expected);
        sent.extend([0x5a; 24]);
        expected.extend([0x5a; 24]);
        plane.expect("trailer", &sent, &expected);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_ping_to_a_vip_is_left_to_the_kernel() {
    everywhere(|plane| {
        let (from, to) = (plane.client(), plane.vip());
        let (kind, protocol) = if to.is_v4() { (8, 1) } else { (128, 58) };
        let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1, 9, 9, 9, 9];
        let sum = if to.is_v4() { checksum(&message) } else { l4_checksum(from, to, 58, &message) };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let ping = ethernet((LB_MAC, CLIENT_MAC), &ip(from, to, protocol, 64, &message));
        assert_eq!(plane.run(&ping), Outcome::Pass);
    });
}
