// SPDX-License-Identifier: Apache-2.0
//! Source ports are used again: those of connections that have ended or never began, and those of flows that
//! went to another backend. UDP is in `questions.rs`.

use bytemuck::{Pod, bytes_of, pod_read_unaligned};
use llb_common::backend::DEAD;
use llb_common::conntrack::{ACK, FIN, ForwardEntry, RST, ReplyEntry, SYN};
use llb_common::frontend::TCP;
use llb_common::maps;
use llb_common::port_holder::OPENING_TICKS;
use llb_common::reason::Reason;
use llb_common::settings::Settings;

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
fn a_client_that_comes_again_from_a_port_gets_the_source_port_that_it_had() {
    everywhere(|plane| {
        let at = if plane.family == Family::V4 { 34 } else { 54 };
        let lives = |plane: &Plane| {
            let opening = plane.to_vip(NAT_PORT, TCP, SYN).bytes();
            let Outcome::Sent(bytes) = plane.run(&opening) else { panic!("not sent") };
            let port = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            for flags in [SYN | ACK, FIN | ACK] {
                let sent = Frame { to: (plane.snat(), port), ..plane.reply_sent(flags) };
                plane.expect("reply", &sent.bytes(), &plane.reply_received(flags).bytes());
                let flags = flags & !SYN;
                let expected = Frame { from: (plane.snat(), port), ..plane.to_backend(flags) };
                plane.expect("forward", &plane.to_vip(NAT_PORT, TCP, flags).bytes(), &expected.bytes());
            }
            port
        };
        let may_be =
            |settings: &mut Settings, ports| (settings.snat_first_port, settings.snat_last_port) = ports;
        plane.settings(|settings| may_be(settings, (1024, 2047)));
        let port = lives(plane);
        // The first candidate is the client's own port now.
        plane.settings(|settings| may_be(settings, (1024, u16::MAX)));
        assert_eq!(lives(plane), port);
        plane.settings(|settings| may_be(settings, (2048, u16::MAX)));
        assert_eq!(lives(plane), CLIENT_PORT);
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

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_stray_packet_holds_its_port_no_longer_than_an_opening() {
    everywhere(|plane| {
        plane.one_port();
        for (client, flags) in (20..).zip([ACK, FIN | ACK, FIN]) {
            let of = |last, flags, plane: &Plane| Frame {
                from: (plane.address(last), CLIENT_PORT),
                ..plane.to_vip(NAT_PORT, TCP, flags)
            };
            let (stray, sent) = (of(client, flags, plane).bytes(), plane.to_backend(flags).bytes());
            plane.expect("stray", &stray, &sent);
            plane.expect("repeated", &stray, &sent);
            plane.began(0);
            plane.expect_reason("too soon", &of(11, SYN, plane).bytes(), Reason::PortsExhausted);
            plane.began(OPENING_TICKS);
            plane.expect("taken", &of(11, SYN, plane).bytes(), &plane.to_backend(SYN).bytes());
            plane.began(OPENING_TICKS);
        }
        // An old connection is answered at once, and keeps its port.
        let old = plane.to_vip(NAT_PORT, TCP, ACK).bytes();
        plane.expect("old", &old, &plane.to_backend(ACK).bytes());
        plane.expect("answer", &plane.reply_sent(ACK).bytes(), &plane.reply_received(ACK).bytes());
        plane.began(10 * OPENING_TICKS);
        let other = Frame { from: (plane.address(11), CLIENT_PORT), ..plane.to_vip(NAT_PORT, TCP, SYN) };
        plane.expect_reason("of a live flow", &other.bytes(), Reason::PortsExhausted);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_that_goes_to_another_backend_leaves_no_port_behind() {
    everywhere(|plane| {
        for (client_port, is_established) in [(2000, true), (3000, false)] {
            plane.two_hosts(0);
            let asked = plane.ask(client_port);
            let ack = Frame { from: (plane.client(), client_port), ..plane.to_vip(NAT_PORT, TCP, ACK) };
            if is_established {
                let answer = plane.sent_by_host(asked, SYN | ACK).bytes();
                assert!(matches!(plane.run(&answer), Outcome::Sent(_)));
                assert_eq!(plane.host(&ack), asked.host);
            }
            let used = plane.ports_in_use();
            let address = plane.address(21 + asked.host as u8);
            plane.backend([1, 3][asked.host], |backend| {
                (backend.address, backend.state) = (address, DEAD);
            });
            assert_eq!(plane.host(&ack), 1 - asked.host);
            assert_eq!(plane.ports_in_use(), used, "established: {is_established}");
            // What the old backend sends to the flow is for nobody.
            let late = plane.sent_by_host(asked, ACK).bytes();
            plane.two_hosts(0);
            assert_eq!(plane.run(&late), Outcome::Pass);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_new_flow_goes_to_another_backend_if_the_first_one_has_no_port_left() {
    everywhere(|plane| {
        for affinity_secs in [0, 100] {
            plane.two_hosts(affinity_secs);
            let of = |last, flags, plane: &Plane| Frame {
                from: (plane.address(last), CLIENT_PORT),
                ..plane.to_vip(NAT_PORT, TCP, flags)
            };
            // Clients that get the first host.
            let gets_it = |last: &u8| plane.host(&of(*last, SYN, plane)) == 0;
            let clients: Vec<u8> = (11..100).filter(gets_it).take(3).collect();
            plane.forget_pending();
            plane.one_port();
            assert_eq!(plane.host(&of(clients[0], SYN, plane)), 0);
            // Another backend would reset a connection that it does not know.
            plane.expect_reason("old", &of(clients[1], ACK, plane).bytes(), Reason::PortsExhausted);
            assert_eq!(plane.host(&of(clients[1], SYN, plane)), 1);
            plane.expect_reason("all full", &of(clients[2], SYN, plane).bytes(), Reason::PortsExhausted);
            // With affinity, the client's next flows go there, too.
            plane.settings(|_| ());
            let next = Frame { from: (plane.address(clients[1]), 2000), ..plane.to_vip(NAT_PORT, TCP, SYN) };
            if affinity_secs > 0 {
                assert_eq!(plane.host(&next), 1);
            }
            plane.forget_pending();
        }
    });
}

impl Plane {
    /// Limits everybody to one source port, the client's own.
    pub(super) fn one_port(&mut self) {
        self.settings(|settings| {
            (settings.snat_first_port, settings.snat_last_port) = (CLIENT_PORT, CLIENT_PORT);
        });
    }

    /// Makes it look as if all flows had their last packet, in each direction, this many ticks ago, or one
    /// more, because the programs' clock is behind. 0 means now.
    pub(super) fn began(&mut self, ticks: u32) {
        let used = if ticks == 0 { u32::MAX } else { now() - ticks - 1 };
        self.ages::<ForwardEntry, 24>([maps::FLOWS.name, maps::PENDING_FLOWS.name], |entry| {
            entry.used = used
        });
        self.ages::<ReplyEntry, 40>([maps::REPLIES.name, maps::PENDING_REPLIES.name], |entry| {
            entry.used = used;
        });
    }

    fn ages<E: Pod, const V: usize>(&mut self, [placed, pending]: [&str; 2], change: impl Fn(&mut E)) {
        for map in [placed, pending] {
            for (key, entry) in self.entries::<24, V>(map) {
                let mut entry: E = pod_read_unaligned(&entry);
                change(&mut entry);
                let entry = raw::<V>(bytes_of(&entry));
                if map == placed {
                    self.program.replace_placed(map, key, entry);
                } else {
                    self.program.insert(map, key, entry);
                }
            }
        }
    }

    fn forget_pending(&mut self) {
        for (key, _) in self.entries::<24, 24>(maps::PENDING_FLOWS.name) {
            self.program.remove::<_, 24>(maps::PENDING_FLOWS.name, key);
        }
        for (key, _) in self.entries::<24, 40>(maps::PENDING_REPLIES.name) {
            self.program.remove::<_, 40>(maps::PENDING_REPLIES.name, key);
        }
    }

    /// How many source ports are taken.
    pub(super) fn ports_in_use(&self) -> usize {
        [maps::REPLIES.name, maps::PENDING_REPLIES.name]
            .map(|map| self.entries::<24, 40>(map).len())
            .iter()
            .sum()
    }
}
