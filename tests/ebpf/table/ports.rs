// SPDX-License-Identifier: Apache-2.0
//! The source ports of flows that have ended are used again.

use bytemuck::{bytes_of, pod_read_unaligned};
use llb_common::conntrack::{ACK, FIN, ForwardEntry, OPENING_TICKS, RST, SYN};
use llb_common::frontend::TCP;
use llb_common::maps;
use llb_common::reason::Reason;

use super::{CLIENT_PORT, everywhere};
use crate::frames::Frame;
use crate::plane::{Family, NAT_PORT, Outcome, Plane, now};
use crate::programs::raw;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_port_is_taken_from_a_flow_that_has_ended_if_none_is_free() {
    everywhere(|plane| {
        plane.one_port();
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
        assert!(plane.entries::<24, 24>(maps::FLOWS.name).is_empty());
        // Packets of the first flow do not get that port any more.
        plane.expect_reason("late", &plane.to_vip(NAT_PORT, TCP, ACK).bytes(), Reason::PortsExhausted);
        let received = |last, flags, plane: &Plane| Frame {
            to: (plane.address(last), CLIENT_PORT),
            ..plane.reply_received(flags)
        };
        let answer = SYN | ACK;
        plane.expect("answer", &plane.reply_sent(answer).bytes(), &received(11, answer, plane).bytes());
        plane.expect("ACK", &from(11, ACK, plane).bytes(), &plane.to_backend(ACK).bytes());
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 1);

        let third = from(12, SYN, plane).bytes();
        plane.expect_reason("of a live flow", &third, Reason::PortsExhausted);
        plane.expect("reset", &from(11, RST, plane).bytes(), &plane.to_backend(RST).bytes());
        plane.expect("taken", &third, &plane.to_backend(SYN).bytes());
        plane.expect("answer", &plane.reply_sent(answer).bytes(), &received(12, answer, plane).bytes());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_port_is_taken_from_an_abandoned_opening_if_none_is_free() {
    everywhere(|plane| {
        plane.one_port();
        let syn = |last, plane: &Plane| Frame {
            from: (plane.address(last), CLIENT_PORT),
            ..plane.to_vip(NAT_PORT, TCP, SYN)
        };
        let opening = plane.to_backend(SYN).bytes();
        let answer = SYN | ACK;
        plane.expect("first", &syn(11, plane).bytes(), &opening);
        let first = Frame { to: (plane.address(11), CLIENT_PORT), ..plane.reply_received(answer) };
        plane.expect("answer", &plane.reply_sent(answer).bytes(), &first.bytes());
        plane.began(0);
        plane.expect_reason("of a new flow", &syn(12, plane).bytes(), Reason::PortsExhausted);
        plane.began(OPENING_TICKS);
        plane.expect("taken", &syn(12, plane).bytes(), &opening);
        let late = Frame { from: (plane.address(11), CLIENT_PORT), ..plane.to_vip(NAT_PORT, TCP, ACK) };
        plane.expect_reason("late", &late.bytes(), Reason::PortsExhausted);
        // Flows that have continued keep their ports.
        let second = Frame { to: (plane.address(12), CLIENT_PORT), ..plane.reply_received(answer) };
        plane.expect("answer", &plane.reply_sent(answer).bytes(), &second.bytes());
        let ack = Frame { from: (plane.address(12), CLIENT_PORT), ..plane.to_vip(NAT_PORT, TCP, ACK) };
        plane.expect("ACK", &ack.bytes(), &plane.to_backend(ACK).bytes());
        plane.began(OPENING_TICKS);
        plane.expect_reason("of a live flow", &syn(13, plane).bytes(), Reason::PortsExhausted);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_free_port_is_preferred_to_one_of_a_flow_that_has_ended() {
    everywhere(|plane| {
        plane.handshake();
        plane.expect("reset", &plane.to_vip(NAT_PORT, TCP, RST).bytes(), &plane.to_backend(RST).bytes());
        let other = Frame { from: (plane.address(11), CLIENT_PORT), ..plane.to_vip(NAT_PORT, TCP, SYN) };
        let Outcome::Sent(bytes) = plane.run(&other.bytes()) else { panic!("not sent") };
        let at = if plane.family == Family::V4 { 34 } else { 54 };
        assert_ne!(bytes[at..at + 2], CLIENT_PORT.to_be_bytes());
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 1);
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
        assert!(plane.entries::<24, 24>(maps::FLOWS.name).len() <= usize::from(PORTS));
    });
}

impl Plane {
    /// Limits everybody to one source port, the client's own.
    pub(super) fn one_port(&mut self) {
        self.settings(|settings| {
            (settings.snat_first_port, settings.snat_last_port) = (CLIENT_PORT, CLIENT_PORT);
        });
    }

    /// Makes it look as if all flows had their last packet this many ticks ago, or one more, because the
    /// programs' clock is behind. 0 means now.
    fn began(&mut self, ticks: u32) {
        for map in [maps::FLOWS.name, maps::PENDING_FLOWS.name] {
            for (key, entry) in self.entries::<24, 24>(map) {
                let used = if ticks == 0 { u32::MAX } else { now() - ticks - 1 };
                let entry = ForwardEntry { used, ..pod_read_unaligned(&entry) };
                let entry = raw::<24>(bytes_of(&entry));
                if map == maps::FLOWS.name {
                    self.program.replace_placed(map, key, entry);
                } else {
                    self.program.insert(map, key, entry);
                }
            }
        }
    }
}
