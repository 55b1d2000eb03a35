// SPDX-License-Identifier: Apache-2.0
//! Rows about whole conversations: both directions, both modes, source ports, and where backends may be.

use std::net::{Ipv6Addr, TcpListener, UdpSocket};

use llb_common::address::Mac;
use llb_common::conntrack::{ACK, FIN, RST, SYN};
use llb_common::flow_table::lines;
use llb_common::frontend::{DSR_TIME_TO_LIVE, TCP, UDP};
use llb_common::maps;
use llb_common::reason::Reason;

use super::{CLIENT_PORT, everywhere};
use crate::frames::{Frame, icmp_error, ip, set_time_to_live};
use crate::plane::{BACKEND_MAC, CLIENT_MAC, DSR_PORT, Family, Hook, LB_MAC, LINK, NAT_PORT, Outcome, Plane};
use crate::programs::Returned;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_is_translated_in_both_directions() {
    everywhere(|plane| {
        plane.handshake();
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 1);
        assert_eq!(plane.entries::<24, 40>(maps::REPLIES.name).len(), 1);
        assert!(plane.entries::<24, 24>(maps::PENDING_FLOWS.name).is_empty());
        assert!(plane.entries::<24, 40>(maps::PENDING_REPLIES.name).is_empty());
        for flags in [ACK, FIN | ACK, SYN, RST] {
            plane.expect(
                "forward",
                &plane.to_vip(NAT_PORT, TCP, flags).bytes(),
                &plane.to_backend(flags).bytes(),
            );
            plane.expect("reply", &plane.reply_sent(flags).bytes(), &plane.reply_received(flags).bytes());
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn udp_is_translated_with_its_checksum_or_without() {
    everywhere(|plane| {
        plane.backend(1, |backend| backend.protocol = UDP);
        let udp = |frame: Frame| Frame { protocol: UDP, ..frame };
        let sent = udp(plane.to_vip(NAT_PORT, UDP, 0)).bytes();
        plane.expect("request", &sent, &udp(plane.to_backend(0)).bytes());
        plane.expect("answer", &udp(plane.reply_sent(0)).bytes(), &udp(plane.reply_received(0)).bytes());
        plane.expect("next", &sent, &udp(plane.to_backend(0)).bytes());
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 1);
        let at = if plane.family == Family::V4 { 34 + 6 } else { 54 + 6 };
        let without = |mut frame: Vec<u8>| {
            frame[at..at + 2].fill(0);
            frame
        };
        match plane.family {
            Family::V4 => plane.expect("none", &without(sent), &without(udp(plane.to_backend(0)).bytes())),
            Family::V6 => plane.expect_reason("none", &without(sent), Reason::NoChecksum),
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn dsr_rewrites_the_ethernet_header_and_limits_the_time_to_live() {
    everywhere(|plane| {
        for (flags, protocol) in [(SYN, TCP), (ACK, TCP), (RST, TCP), (0, UDP), (0, UDP)] {
            let sent = plane.to_vip(DSR_PORT, protocol, flags);
            plane.expect("dsr", &sent.bytes(), &plane.at_node(&sent).bytes());
        }
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 2);
        assert!(plane.entries::<24, 40>(maps::REPLIES.name).is_empty());
        let inside = Frame {
            from: (plane.vip(), DSR_PORT),
            to: (plane.client(), CLIENT_PORT),
            ..plane.to_vip(0, TCP, ACK)
        };
        let inside = ip(plane.vip(), plane.client(), TCP, 60, &inside.transport());
        let error = |macs| icmp_error(macs, plane.address(99), plane.vip(), &inside);
        let mut expected = error((BACKEND_MAC, LB_MAC));
        set_time_to_live(&mut expected, DSR_TIME_TO_LIVE);
        plane.expect("error", &error((LB_MAC, CLIENT_MAC)), &expected);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_second_client_with_the_same_port_gets_another_source_port() {
    everywhere(|plane| {
        plane.handshake();
        let other = Frame { from: (plane.address(11), CLIENT_PORT), ..plane.to_vip(NAT_PORT, TCP, SYN) };
        let Outcome::Sent(bytes) = plane.run(&other.bytes()) else { panic!("not sent") };
        let at = if plane.family == Family::V4 { 34 } else { 54 };
        let port = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert!(port != CLIENT_PORT && port >= 1024, "{port}");
        // The choice is deterministic: the same packet gives the same result.
        assert_eq!(plane.run(&other.bytes()), Outcome::Sent(bytes));
        let expected = Frame { from: (plane.snat(), port), ..plane.to_backend(SYN) };
        plane.expect("another port", &other.bytes(), &expected.bytes());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_udp_checksum_of_zero_is_written_as_0xffff() {
    everywhere(|plane| {
        plane.backend(1, |backend| backend.protocol = UDP);
        let mut sent = Frame { payload: vec![0; 2], ..plane.to_vip(NAT_PORT, UDP, 0) };
        let to_backend = |plane: &Plane, payload: &[u8]| Frame {
            protocol: UDP,
            payload: payload.to_vec(),
            ..plane.to_backend(0)
        };
        // Replace the payload by what is missing in the sum.
        let at = if plane.family == Family::V4 { 34 + 6 } else { 54 + 6 };
        let without = to_backend(plane, &sent.payload).bytes();
        sent.payload = without[at..at + 2].to_vec();
        let expected = to_backend(plane, &sent.payload).bytes();
        assert_eq!(expected[at..at + 2], [0xff, 0xff]);
        plane.expect("zero", &sent.bytes(), &expected);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ports_of_the_hosts_sockets_are_not_taken() {
    everywhere(|plane| {
        let any = (Ipv6Addr::UNSPECIFIED, 0);
        let (tcp, udp) = (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
        for (protocol, port) in
            [(TCP, tcp.local_addr().unwrap().port()), (UDP, udp.local_addr().unwrap().port())]
        {
            plane.backend(1, |backend| backend.protocol = protocol);
            let sent = Frame { from: (plane.client(), port), ..plane.to_vip(NAT_PORT, protocol, SYN) };
            let Outcome::Sent(bytes) = plane.run(&sent.bytes()) else { panic!("not sent") };
            let at = if plane.family == Family::V4 { 34 } else { 54 };
            assert_ne!(bytes[at..at + 2], port.to_be_bytes(), "protocol {protocol}");
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_backend_that_is_its_own_client_gets_answers_from_the_vip() {
    everywhere(|plane| {
        let own = (plane.backend_address(), CLIENT_PORT);
        let sent = Frame { macs: (LB_MAC, BACKEND_MAC), from: own, ..plane.to_vip(NAT_PORT, TCP, SYN) };
        plane.expect("SYN", &sent.bytes(), &plane.to_backend(SYN).bytes());
        let answer = plane.reply_sent(SYN | ACK);
        let expected = Frame { macs: (BACKEND_MAC, LB_MAC), to: own, ..plane.reply_received(SYN | ACK) };
        plane.expect("SYN-ACK", &answer.bytes(), &expected.bytes());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_backend_may_be_behind_a_router_or_another_link() {
    const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
    everywhere(|plane| {
        plane.backend(1, |backend| backend.mac = Mac::new(ROUTER_MAC));
        let expected = Frame { macs: (ROUTER_MAC, LB_MAC), ..plane.to_backend(SYN) };
        plane.expect("router", &plane.to_vip(NAT_PORT, TCP, SYN).bytes(), &expected.bytes());
        let answer = Frame { macs: (LB_MAC, ROUTER_MAC), ..plane.reply_sent(SYN | ACK) };
        plane.expect("answer", &answer.bytes(), &plane.reply_received(SYN | ACK).bytes());

        plane.backend(1, |backend| {
            (backend.ifindex, backend.source_mac) = (LINK + 1, Mac::new(OTHER_MAC));
        });
        let expected = Frame { macs: (BACKEND_MAC, OTHER_MAC), ..plane.to_backend(SYN) };
        let sent = plane.program.run(&plane.to_vip(NAT_PORT, TCP, SYN).bytes(), None).unwrap();
        let elsewhere = if plane.hook == Hook::Xdp { Returned::SentElsewhere } else { Returned::Sent };
        assert_eq!(sent, (elsewhere, expected.bytes()));
        // The answer arrives by that link and leaves by the client's.
        plane.arrive_by(LINK + 1, OTHER_MAC);
        let answer = Frame { macs: (OTHER_MAC, BACKEND_MAC), ..plane.reply_sent(SYN | ACK) };
        plane.expect_reason("unknown link", &answer.bytes(), Reason::NoNeighbour);
        plane.know_link(LINK, LB_MAC);
        let sent = plane.program.run(&answer.bytes(), None).unwrap();
        assert_eq!(sent, (elsewhere, plane.reply_received(SYN | ACK).bytes()));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn replies_go_to_the_hop_from_which_the_client_comes() {
    const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    everywhere(|plane| {
        plane.handshake();
        let moved = Frame { macs: (LB_MAC, ROUTER_MAC), ..plane.to_vip(NAT_PORT, TCP, ACK) };
        plane.expect("moved", &moved.bytes(), &plane.to_backend(ACK).bytes());
        let expected = Frame { macs: (ROUTER_MAC, LB_MAC), ..plane.reply_received(ACK) };
        plane.expect("reply", &plane.reply_sent(ACK).bytes(), &expected.bytes());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_flow_table_keeps_what_it_has() {
    everywhere(|plane| {
        const LINES: u32 = lines(64);
        *plane = Plane::with_sizes(plane.hook, plane.family, &[(maps::FLOWS.name, LINES)]);
        // In mode DSR the second packet asks for a place in the table.
        for port in 0..300 {
            let sent = Frame { from: (plane.client(), 1024 + port), ..plane.to_vip(DSR_PORT, TCP, ACK) };
            for _ in 0..2 {
                plane.expect("forwarded", &sent.bytes(), &plane.at_node(&sent).bytes());
            }
        }
        assert!(plane.reason(Reason::FlowsFull) > 0);
        let placed = plane.entries::<24, 24>(maps::FLOWS.name).len();
        assert!((64..LINES as usize).contains(&placed), "{placed}");
        assert!(!plane.entries::<24, 24>(maps::PENDING_FLOWS.name).is_empty());
    });
}
