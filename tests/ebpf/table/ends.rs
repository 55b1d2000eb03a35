// SPDX-License-Identifier: Apache-2.0
//! Rows about packets that claim to end a connection: genuine ones are believed, forged ones change nothing.

use std::mem::offset_of;

use bytemuck::pod_read_unaligned;
use llb_common::conntrack::{
    ACK, CLOSED_SECS, ESTABLISHED_SECS, FIN, ForwardEntry, HALF_CLOSED_SECS, RST, ReplyEntry, SYN,
    lifetime_secs,
};
use llb_common::frontend::TCP;
use llb_common::life_cycle::{NEAR_AHEAD, NEAR_BEHIND};
use llb_common::maps;
use llb_common::reason::Reason;

use super::{CLIENT_PORT, everywhere};
use crate::frames::{Frame, ip, unreachable};
use crate::plane::{BACKEND_MAC, DSR_PORT, LB_MAC, NAT_PORT, Outcome, Plane, now};

/// Numbers that do not fit the streams of `Plane::to_vip`, which are near 1 and 2.
const WRONG: [u32; 3] = [NEAR_AHEAD + 100, 1 << 31, NEAR_BEHIND.wrapping_neg()];

impl Plane {
    /// The lifetime of the only flow.
    fn lifetime(&self) -> u32 {
        let flows = self.entries::<24, 24>(maps::FLOWS.name);
        let replies = self.entries::<24, 40>(maps::REPLIES.name);
        let [(_, flow)] = &flows[..] else { panic!("{} flows", flows.len()) };
        let seen = replies.first().map_or(0, |(_, reply)| pod_read_unaligned::<ReplyEntry>(reply).seen);
        lifetime_secs(TCP, pod_read_unaligned::<ForwardEntry>(flow).seen, seen)
    }

    /// Makes it look as if no packet of any flow came for this long, or a little longer.
    fn is_silent_for(&mut self, secs: u32) {
        let of_all = |keys: Vec<[u8; 24]>| keys.into_iter().map(|key| (key.to_vec(), now() - secs)).collect();
        let flows =
            of_all(self.entries::<24, 24>(maps::FLOWS.name).into_iter().map(|(key, _)| key).collect());
        let replies =
            of_all(self.entries::<24, 40>(maps::REPLIES.name).into_iter().map(|(key, _)| key).collect());
        self.program.patch_placed(maps::FLOWS.name, offset_of!(ForwardEntry, used), &flows);
        self.program.patch_placed(maps::REPLIES.name, offset_of!(ReplyEntry, used), &replies);
    }

    /// Sends a packet with this sequence number, as the client or as the backend.
    fn sends(&self, is_client: bool, flags: u8, seq: u32) {
        let numbers = |frame: Frame| Frame { numbers: (seq, 2), ..frame }.bytes();
        let (sent, received) = if is_client {
            (self.to_vip(NAT_PORT, TCP, flags), self.to_backend(flags))
        } else {
            (self.reply_sent(flags), self.reply_received(flags))
        };
        self.expect("forwarded", &numbers(sent), &numbers(received));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_forged_end_leaves_an_idle_connection_its_lifetime() {
    everywhere(|plane| {
        plane.handshake();
        plane.sends(false, ACK, 1);
        for flags in [RST, RST | ACK, FIN | ACK] {
            for is_client in [true, false] {
                for seq in WRONG {
                    plane.sends(is_client, flags, seq);
                    assert_eq!(plane.lifetime(), ESTABLISHED_SECS, "{flags:#x} {is_client} {seq}");
                }
            }
        }
        // Nor does the client's port begin a new connection then.
        plane.sends(true, SYN, 1 << 30);
        assert_eq!(plane.lifetime(), ESTABLISHED_SECS);
        // A forged packet does not move what is known of the stream.
        plane.sends(true, ACK, 1 << 31);
        plane.sends(true, RST, (1 << 31) + 1);
        assert_eq!(plane.lifetime(), ESTABLISHED_SECS);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_genuine_end_is_believed_until_the_connection_goes_on() {
    everywhere(|plane| {
        plane.handshake();
        plane.sends(false, ACK, 1);
        for is_client in [true, false] {
            plane.sends(is_client, RST, 1000);
            assert_eq!(plane.lifetime(), CLOSED_SECS, "{is_client}");
            // The receiver answers a reset that is not quite right.
            plane.sends(!is_client, ACK, 2);
            assert_eq!(plane.lifetime(), ESTABLISHED_SECS, "{is_client}");
            plane.sends(is_client, RST, 1000);
            plane.sends(is_client, ACK, 1000);
            assert_eq!(plane.lifetime(), ESTABLISHED_SECS, "{is_client}");
        }
        plane.sends(true, FIN | ACK, 1000);
        assert_eq!(plane.lifetime(), HALF_CLOSED_SECS);
        // What follows on a FIN, and what was sent before it.
        plane.sends(true, ACK, 1001 + 9);
        plane.sends(true, ACK, 500);
        plane.sends(false, ACK, 3);
        assert_eq!(plane.lifetime(), HALF_CLOSED_SECS);
        plane.sends(false, FIN | ACK, 3);
        plane.sends(true, ACK, 1001 + 9);
        assert_eq!(plane.lifetime(), CLOSED_SECS);
        // Beyond the FIN there is nothing, so it was none.
        plane.sends(true, ACK, 3000);
        assert_eq!(plane.lifetime(), HALF_CLOSED_SECS, "the backend has closed");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_port_is_taken_after_a_doubted_end_only_if_nothing_follows() {
    everywhere(|plane| {
        plane.one_port();
        plane.handshake();
        plane.sends(false, ACK, 1);
        plane.sends(true, RST, 1 << 31);
        let other = Frame { from: (plane.address(11), CLIENT_PORT), ..plane.to_vip(NAT_PORT, TCP, SYN) };
        plane.expect_reason("a moment ago", &other.bytes(), Reason::PortsExhausted);
        plane.is_silent_for(CLOSED_SECS + 2);
        plane.sends(true, ACK, 1);
        plane.is_silent_for(CLOSED_SECS + 2);
        plane.expect_reason("it went on", &other.bytes(), Reason::PortsExhausted);
        plane.sends(true, RST, 1 << 31);
        plane.is_silent_for(CLOSED_SECS + 2);
        plane.expect("taken", &other.bytes(), &plane.to_backend(SYN).bytes());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn in_mode_dsr_the_clients_packets_tell() {
    everywhere(|plane| {
        let sends = |plane: &Plane, flags, seq| {
            let sent = Frame { numbers: (seq, 2), ..plane.to_vip(DSR_PORT, TCP, flags) };
            plane.expect("dsr", &sent.bytes(), &plane.at_node(&sent).bytes());
        };
        sends(plane, SYN, 1);
        sends(plane, ACK, 2);
        for flags in [RST, FIN | ACK] {
            for seq in WRONG {
                sends(plane, flags, seq);
                assert_eq!(plane.lifetime(), ESTABLISHED_SECS, "{flags:#x} {seq}");
            }
        }
        sends(plane, FIN | ACK, 1000);
        assert_eq!(plane.lifetime(), HALF_CLOSED_SECS);
        sends(plane, RST, 1010);
        assert_eq!(plane.lifetime(), CLOSED_SECS);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn icmp_errors_change_no_lifetime() {
    everywhere(|plane| {
        plane.handshake();
        plane.sends(false, ACK, 1);
        let about = |frame: Frame| ip(frame.from.0, frame.to.0, TCP, 60, &frame.transport());
        let (router, client) = (plane.address(98), plane.reply_received(ACK));
        let errors = [
            unreachable((LB_MAC, BACKEND_MAC), router, plane.snat(), &about(plane.to_backend(ACK))),
            unreachable((LB_MAC, BACKEND_MAC), router, plane.vip(), &about(client)),
        ];
        for error in errors {
            assert!(matches!(plane.run(&error), Outcome::Sent(_)));
            assert_eq!(plane.lifetime(), ESTABLISHED_SECS);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn only_who_has_seen_the_syn_can_refuse_it() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let asked = plane.ask(CLIENT_PORT);
        for ack in [0, 1, 1 << 20, u32::MAX] {
            let reset = Frame { numbers: (0, ack), ..plane.sent_by_host(asked, RST | ACK) };
            plane.expect_reason("reset", &reset.bytes(), Reason::FalseRefusal);
        }
        let silent = Frame { numbers: (0, 2), ..plane.sent_by_host(asked, RST) };
        plane.expect_reason("without an acknowledgement", &silent.bytes(), Reason::FalseRefusal);
        let error = |plane: &Plane, seq| {
            let answer = plane.sent_by_host(asked, 0);
            let sent = Frame { from: answer.to, to: answer.from, numbers: (seq, 0), ..answer };
            let inside = ip(sent.from.0, sent.to.0, TCP, 60, &sent.transport()[..8]);
            unreachable((LB_MAC, BACKEND_MAC), plane.address(98), plane.snat(), &inside)
        };
        plane.expect_reason("error", &error(plane, 2), Reason::FalseRefusal);
        assert!(plane.entries::<4, 4>(maps::FAILING.name).is_empty(), "no backend is blamed");
        plane.expect_reason("genuine", &error(plane, 1), Reason::Refused);
        plane.expect_reason("genuine", &plane.sent_by_host(asked, RST | ACK).bytes(), Reason::Refused);
    });
}
