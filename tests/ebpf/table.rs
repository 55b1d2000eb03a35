//! Packets in, verdict and bytes out: each row for both families and hooks.

use llb_common::address::Mac;
use llb_common::backend::{DEAD, DRAINING};
use llb_common::conntrack::{ACK, FIN, RST, SYN};
use llb_common::frontend::{RESTRICTED, TCP, UDP};
use llb_common::maps;
use llb_common::reason::{Reason, Verdict};

use crate::frames::{Frame, checksum, ethernet, icmp_error, ip};
use crate::plane::{
    BACKEND_MAC, BACKEND_PORT, CLIENT_MAC, DSR_PORT, EMPTY_PORT, Family, Hook, LB_MAC, NAT_PORT, Outcome,
    Plane,
};

const CLIENT_PORT: u16 = 40_000;

fn everywhere(check: impl Fn(&mut Plane)) {
    for hook in [Hook::Xdp, Hook::Tc] {
        for family in [Family::V4, Family::V6] {
            println!("{hook:?} {family:?}");
            check(&mut Plane::new(hook, family));
        }
    }
}

impl Plane {
    fn to_vip(&self, port: u16, protocol: u8, tcp_flags: u8) -> Frame {
        Frame {
            macs: (LB_MAC, CLIENT_MAC),
            from: (self.client(), CLIENT_PORT),
            to: (self.vip(), port),
            protocol,
            tcp_flags,
            time_to_live: 64,
            payload: b"hello llb".to_vec(),
        }
    }

    fn to_backend(&self, tcp_flags: u8) -> Frame {
        Frame {
            macs: (BACKEND_MAC, LB_MAC),
            from: (self.snat(), CLIENT_PORT),
            to: (self.backend_address(), BACKEND_PORT),
            time_to_live: 63,
            ..self.to_vip(NAT_PORT, TCP, tcp_flags)
        }
    }

    fn reply_sent(&self, tcp_flags: u8) -> Frame {
        let sent = self.to_backend(tcp_flags);
        Frame { macs: (LB_MAC, BACKEND_MAC), from: sent.to, to: sent.from, time_to_live: 64, ..sent }
    }

    fn reply_received(&self, tcp_flags: u8) -> Frame {
        let sent = self.to_vip(NAT_PORT, TCP, tcp_flags);
        Frame { macs: (CLIENT_MAC, LB_MAC), from: sent.to, to: sent.from, time_to_live: 63, ..sent }
    }

    fn expect(&self, name: &str, sent: &[u8], expected: &[u8]) {
        match self.run(sent) {
            Outcome::Sent(bytes) => assert_eq!(bytes, expected, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }

    fn expect_reason(&self, name: &str, frame: &[u8], reason: Reason) {
        let before = self.reason(reason);
        let outcome = self.run(frame);
        assert_eq!(self.reason(reason), before + 1, "{name}: {outcome:?}");
        let expected = if reason.verdict() == Verdict::Drop { Outcome::Drop } else { Outcome::Pass };
        assert_eq!(outcome, expected, "{name}");
    }

    fn handshake(&self) {
        self.expect("SYN", &self.to_vip(NAT_PORT, TCP, SYN).bytes(), &self.to_backend(SYN).bytes());
        self.expect("SYN-ACK", &self.reply_sent(SYN | ACK).bytes(), &self.reply_received(SYN | ACK).bytes());
        self.expect("ACK", &self.to_vip(NAT_PORT, TCP, ACK).bytes(), &self.to_backend(ACK).bytes());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_is_translated_in_both_directions() {
    everywhere(|plane| {
        plane.handshake();
        assert_eq!(plane.entries::<24, 16>(maps::FLOWS.name).len(), 1);
        assert_eq!(plane.entries::<24, 40>(maps::REPLIES.name).len(), 1);
        assert!(plane.entries::<24, 16>(maps::PENDING_FLOWS.name).is_empty());
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
        assert_eq!(plane.entries::<24, 16>(maps::FLOWS.name).len(), 1);
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
fn dsr_rewrites_only_the_ethernet_header() {
    everywhere(|plane| {
        for (flags, protocol) in [(SYN, TCP), (ACK, TCP), (RST, TCP), (0, UDP), (0, UDP)] {
            let sent = plane.to_vip(DSR_PORT, protocol, flags);
            plane.expect("dsr", &sent.bytes(), &Frame { macs: (BACKEND_MAC, LB_MAC), ..sent }.bytes());
        }
        assert_eq!(plane.entries::<24, 16>(maps::FLOWS.name).len(), 2);
        assert!(plane.entries::<24, 40>(maps::REPLIES.name).is_empty());
        let inside = Frame {
            from: (plane.vip(), DSR_PORT),
            to: (plane.client(), CLIENT_PORT),
            ..plane.to_vip(0, TCP, ACK)
        };
        let inside = ip(plane.vip(), plane.client(), TCP, 60, &inside.transport());
        let error = |macs| icmp_error(macs, plane.address(99), plane.vip(), &inside);
        plane.expect("error", &error((LB_MAC, CLIENT_MAC)), &error((BACKEND_MAC, LB_MAC)));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_reach_the_end_that_they_concern() {
    everywhere(|plane| {
        plane.handshake();
        let inside = |frame: Frame| ip(frame.from.0, frame.to.0, TCP, 60, &frame.transport());
        // A router on the client's side, about what the client gets.
        let seen = inside(plane.reply_received(ACK));
        let meant = inside(plane.reply_sent(ACK));
        let sent = icmp_error((LB_MAC, CLIENT_MAC), plane.address(99), plane.vip(), &seen);
        let mut expected = icmp_error((BACKEND_MAC, LB_MAC), plane.snat(), plane.backend_address(), &meant);
        plane.expect("to the backend", &sent, lower_time_to_live(&mut expected));
        // A router before the backend, about what the backend gets.
        let seen = inside(plane.to_backend(ACK));
        let meant = inside(plane.to_vip(NAT_PORT, TCP, ACK));
        let sent = icmp_error((LB_MAC, BACKEND_MAC), plane.address(98), plane.snat(), &seen);
        let mut expected = icmp_error((CLIENT_MAC, LB_MAC), plane.vip(), plane.client(), &meant);
        plane.expect("to the client", &sent, lower_time_to_live(&mut expected));
    });
}

/// Of 64, in a whole frame.
fn lower_time_to_live(frame: &mut [u8]) -> &[u8] {
    if frame[12] == 8 {
        frame[22] -= 1;
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[21] -= 1;
    }
    frame
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_not_ours_passes_untouched() {
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
fn a_second_client_with_the_same_port_gets_another_one() {
    everywhere(|plane| {
        plane.handshake();
        let other = Frame { from: (plane.address(11), CLIENT_PORT), ..plane.to_vip(NAT_PORT, TCP, SYN) };
        let Outcome::Sent(bytes) = plane.run(&other.bytes()) else { panic!("not sent") };
        let at = if plane.family == Family::V4 { 34 } else { 54 };
        let port = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert!(port != CLIENT_PORT && port >= 1024, "{port}");
        // Deterministic: what is sent again comes out again.
        assert_eq!(plane.run(&other.bytes()), Outcome::Sent(bytes));
        let expected = Frame { from: (plane.snat(), port), ..plane.to_backend(SYN) };
        plane.expect("another port", &other.bytes(), &expected.bytes());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_port_is_taken_from_a_flow_that_has_ended_if_none_is_free() {
    everywhere(|plane| {
        // One port for everybody.
        plane.settings(|settings| {
            (settings.snat_first_port, settings.snat_last_port) = (CLIENT_PORT, CLIENT_PORT)
        });
        plane.handshake();
        let from = |last, flags, plane: &Plane| Frame {
            from: (plane.address(last), CLIENT_PORT),
            ..plane.to_vip(NAT_PORT, TCP, flags)
        };
        let second = from(11, SYN, plane).bytes();
        plane.expect_reason("of a live flow", &second, Reason::PortsExhausted);
        let fin = FIN | ACK;
        plane.expect("end", &plane.to_vip(NAT_PORT, TCP, fin).bytes(), &plane.to_backend(fin).bytes());
        plane.expect_reason("half closed", &second, Reason::PortsExhausted);
        plane.expect("end", &plane.reply_sent(fin).bytes(), &plane.reply_received(fin).bytes());

        plane.expect("taken", &second, &plane.to_backend(SYN).bytes());
        assert!(plane.entries::<24, 16>(maps::FLOWS.name).is_empty());
        // Nothing more of the first one comes from that port.
        plane.expect_reason("late", &plane.to_vip(NAT_PORT, TCP, ACK).bytes(), Reason::PortsExhausted);
        let received = |last, flags, plane: &Plane| Frame {
            to: (plane.address(last), CLIENT_PORT),
            ..plane.reply_received(flags)
        };
        let answer = SYN | ACK;
        plane.expect("answer", &plane.reply_sent(answer).bytes(), &received(11, answer, plane).bytes());
        plane.expect("ACK", &from(11, ACK, plane).bytes(), &plane.to_backend(ACK).bytes());
        assert_eq!(plane.entries::<24, 16>(maps::FLOWS.name).len(), 1);

        let third = from(12, SYN, plane).bytes();
        plane.expect_reason("of a live flow", &third, Reason::PortsExhausted);
        plane.expect("reset", &from(11, RST, plane).bytes(), &plane.to_backend(RST).bytes());
        plane.expect("taken", &third, &plane.to_backend(SYN).bytes());
        plane.expect("answer", &plane.reply_sent(answer).bytes(), &received(12, answer, plane).bytes());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_free_port_goes_before_one_of_a_flow_that_has_ended() {
    everywhere(|plane| {
        plane.handshake();
        plane.expect("reset", &plane.to_vip(NAT_PORT, TCP, RST).bytes(), &plane.to_backend(RST).bytes());
        let other = Frame { from: (plane.address(11), CLIENT_PORT), ..plane.to_vip(NAT_PORT, TCP, SYN) };
        let Outcome::Sent(bytes) = plane.run(&other.bytes()) else { panic!("not sent") };
        let at = if plane.family == Family::V4 { 34 } else { 54 };
        assert_ne!(bytes[at..at + 2], CLIENT_PORT.to_be_bytes());
        assert_eq!(plane.entries::<24, 16>(maps::FLOWS.name).len(), 1);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn many_short_connections_share_few_ports() {
    const PORTS: u16 = 64;
    everywhere(|plane| {
        plane.settings(|settings| {
            (settings.snat_first_port, settings.snat_last_port) = (CLIENT_PORT, CLIENT_PORT + PORTS - 1);
            settings.flow_budget = u32::MAX;
        });
        let at = if plane.family == Family::V4 { 34 } else { 54 };
        for client in 0..20 * PORTS {
            let frame =
                |flags| Frame { from: (plane.client(), 2000 + client), ..plane.to_vip(NAT_PORT, TCP, flags) };
            let Outcome::Sent(bytes) = plane.run(&frame(SYN).bytes()) else { panic!("{client}: not sent") };
            let port = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            for flags in [SYN | ACK, FIN | ACK] {
                let sent = Frame { to: (plane.snat(), port), ..plane.reply_sent(flags) };
                let expected = Frame { to: (plane.client(), 2000 + client), ..plane.reply_received(flags) };
                plane.expect("reply", &sent.bytes(), &expected.bytes());
                let expected = Frame { from: (plane.snat(), port), ..plane.to_backend(flags & !SYN) };
                plane.expect("forward", &frame(flags & !SYN).bytes(), &expected.bytes());
            }
        }
        assert_eq!(plane.reason(Reason::PortsExhausted), 0);
        assert!(plane.entries::<24, 16>(maps::FLOWS.name).len() <= usize::from(PORTS));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_reason_is_reached() {
    everywhere(|plane| {
        let syn = |plane: &Plane| plane.to_vip(NAT_PORT, TCP, SYN);
        let empty = Frame { to: (plane.vip(), EMPTY_PORT), ..syn(plane) };
        plane.expect_reason("no backends", &empty.bytes(), Reason::NoBackends);
        plane.expect_reason("reset", &plane.to_vip(NAT_PORT, TCP, RST).bytes(), Reason::UnknownReset);
        let reply = plane.reply_received(ACK);
        let inside = ip(reply.from.0, reply.to.0, TCP, 60, &reply.transport());
        let error = icmp_error((LB_MAC, CLIENT_MAC), plane.address(99), plane.vip(), &inside);
        plane.expect_reason("error", &error, Reason::UnknownError);
        let last = Frame { time_to_live: 1, ..syn(plane) };
        plane.expect_reason("time to live", &last.bytes(), Reason::TimeToLive);
        let large = Frame { payload: vec![7; 1500], ..syn(plane) };
        plane.expect_reason("too big", &large.bytes(), Reason::TooBig);

        plane.frontend(NAT_PORT, |entry| entry.flags = RESTRICTED);
        let unknown = Frame { from: (plane.client(), 5999), ..syn(plane) };
        plane.expect_reason("denied", &unknown.bytes(), Reason::SourceDenied);
        plane.admit(plane.address(8), if plane.family == Family::V4 { 29 } else { 125 });
        assert!(matches!(plane.run(&unknown.bytes()), Outcome::Sent(_)), "admitted");
        plane.frontend(NAT_PORT, |_| ());
        plane.handshake();

        // The flow's reply entry, but no backend; then one that is no more.
        plane.backend(1, |backend| backend.id = llb_common::backend::BackendId::new(1, 2));
        plane.expect_reason("stale", &plane.reply_sent(ACK).bytes(), Reason::StaleReply);
        plane.expect_reason("table is old", &syn(plane).bytes(), Reason::NoLiveBackend);
        plane.backend(1, |backend| backend.state = DEAD);
        plane.expect_reason("dead", &plane.to_vip(NAT_PORT, TCP, ACK).bytes(), Reason::NoLiveBackend);
        plane.backend(1, |backend| backend.state = DRAINING);
        plane.expect("draining", &plane.to_vip(NAT_PORT, TCP, ACK).bytes(), &plane.to_backend(ACK).bytes());
        plane.expect_reason("draining", &syn(plane).bytes(), Reason::NoLiveBackend);
        plane.backend(1, |backend| backend.mac = Mac::default());
        plane.expect_reason("neighbour", &syn(plane).bytes(), Reason::NoNeighbour);
        let other_family = if plane.family == Family::V4 { Family::V6 } else { Family::V4 };
        let wrong = Plane::address_of(other_family, 3);
        plane.backend(1, |backend| backend.address = wrong);
        let new = |port| Frame { from: (plane.client(), port), ..syn(plane) };
        plane.expect_reason("family", &new(5000).bytes(), Reason::BadBackend);
        plane.backend(1, |_| ());
        // One port for everybody.
        plane.settings(|settings| {
            (settings.snat_first_port, settings.snat_last_port) = (CLIENT_PORT, CLIENT_PORT)
        });
        let other = Frame { from: (plane.client(), 5001), ..syn(plane) };
        plane.expect_reason("ports", &other.bytes(), Reason::PortsExhausted);
        plane.settings(|settings| settings.flow_budget = 0);
        plane.expect_reason("budget", &other.bytes(), Reason::OverBudget);
        let dsr = Frame { from: (plane.client(), 5002), ..plane.to_vip(DSR_PORT, TCP, SYN) };
        plane.expect("dsr", &dsr.bytes(), &Frame { macs: (BACKEND_MAC, LB_MAC), ..dsr.clone() }.bytes());
        assert_eq!(plane.reason(Reason::NotRemembered), 1);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn fragments_follow_the_first() {
    everywhere(|plane| {
        let whole = plane.to_vip(NAT_PORT, TCP, ACK);
        let expected = plane.to_backend(ACK);
        let cut = |frame: &Frame, first: bool| fragment(frame, first);
        plane.expect_reason("overtaking", &cut(&whole, false), Reason::UnknownFragment);
        plane.expect("first", &cut(&whole, true), &cut(&expected, true));
        plane.expect("later", &cut(&whole, false), &cut(&expected, false));
        let (whole, expected) = (plane.reply_sent(ACK), plane.reply_received(ACK));
        plane.expect("first reply", &cut(&whole, true), &cut(&expected, true));
        plane.expect("later reply", &cut(&whole, false), &cut(&expected, false));
    });
}

/// The first 24 bytes of the packet's TCP segment, or those behind them.
fn fragment(frame: &Frame, is_first: bool) -> Vec<u8> {
    const CUT: usize = 24;
    let segment = frame.transport();
    let part = if is_first { &segment[..CUT] } else { &segment[CUT..] };
    let (from, to) = (frame.from.0, frame.to.0);
    let more = u8::from(is_first);
    let offset = if is_first { 0 } else { CUT as u8 };
    if !from.is_v4() {
        let part = [&[TCP, 0, 0, offset | more, 1, 2, 3, 4], part].concat();
        return ethernet(frame.macs, &ip(from, to, 44, frame.time_to_live, &part));
    }
    let mut bytes = ethernet(frame.macs, &ip(from, to, TCP, frame.time_to_live, part));
    bytes[20..22].copy_from_slice(&[more << 5, offset / 8]);
    bytes[24..26].fill(0);
    let sum = checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_flow_table_keeps_what_it_has() {
    everywhere(|plane| {
        // In mode DSR the second packet asks for the place.
        for port in 0..maps::FLOWS.capacity as u16 + 8 {
            plane.settings(|settings| settings.flow_budget = u32::MAX);
            let sent = Frame { from: (plane.client(), 1024 + port), ..plane.to_vip(DSR_PORT, TCP, ACK) };
            for _ in 0..2 {
                plane.expect(
                    "forwarded",
                    &sent.bytes(),
                    &Frame { macs: (BACKEND_MAC, LB_MAC), ..sent.clone() }.bytes(),
                );
            }
        }
        assert!(plane.reason(Reason::FlowsFull) > 0);
        assert_eq!(plane.entries::<24, 16>(maps::FLOWS.name).len(), maps::FLOWS.capacity);
        assert!(!plane.entries::<24, 16>(maps::PENDING_FLOWS.name).is_empty());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn options_extension_headers_and_vlan_tags_are_looked_through() {
    everywhere(|plane| {
        let (sent, expected) = (plane.to_vip(NAT_PORT, TCP, SYN), plane.to_backend(SYN));
        let tagged = |frame: &Frame| {
            let mut bytes = frame.bytes();
            bytes.splice(12..12, [0x81, 0, 0, 7]);
            bytes
        };
        // TC has the tag beside the packet, not in it, except where there are two.
        plane.expect("VLAN", &tagged(&sent), &tagged(&expected));
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
