// SPDX-License-Identifier: Apache-2.0
//! Rows about packets in mode DSR that a Node without a rule for the VIP sends back.

use llb_common::backend::{ACTIVE, DRAINING};
use llb_common::conntrack::{ACK, FIN, RST, SYN};
use llb_common::frontend::{DSR, DSR_TIME_TO_LIVE, NAT_INSTEAD, TCP, UDP};
use llb_common::maps;
use llb_common::reason::Reason;

use super::{CLIENT_PORT, everywhere};
use crate::frames::Frame;
use crate::plane::{BACKEND_MAC, CLIENT_MAC, DSR_PORT, LB_MAC, NAT_PORT, Outcome, Plane};

/// Of the Node's gateway, which may be the one that sends the packet back.
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Index of the backend of [`DSR_PORT`].
const DSR_BACKEND: u32 = 2;

/// `sent` as it comes back: through so many routers, the Node being the first, the last with this MAC.
fn back(sent: &Frame, routers: u8, mac: [u8; 6]) -> Frame {
    Frame { macs: (LB_MAC, mac), time_to_live: DSR_TIME_TO_LIVE - routers, ..sent.clone() }
}

impl Plane {
    fn falls_back(&mut self) {
        self.frontend(DSR_PORT, |entry| entry.flags = DSR | NAT_INSTEAD);
    }

    /// The flow of `sent` in mode NAT, as its backend sees it, with this source port.
    fn by_nat(&self, sent: &Frame, snat_port: u16) -> Frame {
        let time_to_live = sent.time_to_live - 1;
        let to = (self.backend_address(), self.to_backend(SYN).to.1);
        Frame {
            macs: (BACKEND_MAC, LB_MAC),
            from: (self.snat(), snat_port),
            to,
            time_to_live,
            ..sent.clone()
        }
    }

    /// Sends a packet and returns the source port that it gets.
    fn snat_port_of(&self, frame: &Frame) -> u16 {
        let Outcome::Sent(bytes) = self.run(&frame.bytes()) else { panic!("not sent") };
        let at = if self.vip().is_v4() { 34 } else { 54 };
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    fn answer(&self, snat_port: u16, flags: u8) -> Frame {
        Frame { to: (self.snat(), snat_port), ..self.reply_sent(flags) }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_packet_that_a_node_sends_back_goes_round_no_more() {
    everywhere(|plane| {
        for (flags, protocol) in [(SYN, TCP), (ACK, TCP), (FIN | ACK, TCP), (RST, TCP), (0, UDP), (0, UDP)] {
            let sent = plane.to_vip(DSR_PORT, protocol, flags);
            plane.expect("first", &sent.bytes(), &plane.at_node(&sent).bytes());
            for (routers, mac) in [(1, BACKEND_MAC), (2, ROUTER_MAC), (2, CLIENT_MAC)] {
                plane.expect_reason("back", &back(&sent, routers, mac).bytes(), Reason::Returned);
            }
            // The client's next packet goes to the Node all the same: it may have a rule by now.
            plane.expect("next", &sent.bytes(), &plane.at_node(&sent).bytes());
        }
    });
}

/// It passes to the kernel, where the agent sees it. Nothing else that claims to come from this machine passes.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_canary_that_comes_back_is_left_to_the_agent() {
    everywhere(|plane| {
        for state in [ACTIVE, DRAINING] {
            plane.backend(DSR_BACKEND, |backend| backend.state = state);
            let own = |protocol, flags| Frame {
                from: (plane.snat(), 61_000),
                time_to_live: DSR_TIME_TO_LIVE,
                ..plane.to_vip(DSR_PORT, protocol, flags)
            };
            let canary = own(TCP, SYN);
            plane.expect_reason("back", &back(&canary, 1, BACKEND_MAC).bytes(), Reason::Canary);
            plane.expect_reason("was at no Node", &canary.bytes(), Reason::Martian);
            for (protocol, flags) in [(TCP, ACK), (TCP, SYN | ACK), (TCP, RST), (UDP, 0)] {
                let other = back(&own(protocol, flags), 1, BACKEND_MAC);
                plane.expect_reason("no canary", &other.bytes(), Reason::Martian);
            }
            let to_nat = Frame { to: (plane.vip(), NAT_PORT), ..back(&canary, 1, BACKEND_MAC) };
            plane.expect_reason("in mode nat", &to_nat.bytes(), Reason::Martian);
        }
        assert!(plane.entries::<24, 24>(maps::PENDING_FLOWS.name).is_empty());
    });
}

/// As while its Node waits for clients.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn new_flows_wait_for_a_node_and_known_ones_go_on() {
    everywhere(|plane| {
        let known = plane.to_vip(DSR_PORT, TCP, SYN);
        plane.expect("first", &known.bytes(), &plane.at_node(&known).bytes());
        plane.backend(DSR_BACKEND, |backend| backend.state = DRAINING);
        let new = Frame { from: (plane.client(), 4001), ..known.clone() };
        plane.expect_reason("new", &new.bytes(), Reason::NoLiveBackend);
        let next = plane.to_vip(DSR_PORT, TCP, ACK);
        plane.expect("known", &next.bytes(), &plane.at_node(&next).bytes());
        plane.backend(DSR_BACKEND, |_| ());
        plane.expect("the repeated SYN", &new.bytes(), &plane.at_node(&new).bytes());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_node_and_its_pods_may_be_clients() {
    everywhere(|plane| {
        plane.falls_back();
        // Its Pod is one hop away, and the flow's backend is the Node itself.
        for (flags, time_to_live) in [(SYN, 63), (ACK, 63), (ACK, DSR_TIME_TO_LIVE)] {
            let sent =
                Frame { macs: (LB_MAC, BACKEND_MAC), time_to_live, ..plane.to_vip(DSR_PORT, TCP, flags) };
            plane.expect("own", &sent.bytes(), &plane.at_node(&sent).bytes());
        }
        assert_eq!(plane.reason(Reason::Returned) + plane.reason(Reason::NatInstead), 0);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn where_pods_do_not_see_clients_a_returned_flow_begins_by_nat() {
    everywhere(|plane| {
        plane.falls_back();
        let syn = plane.to_vip(DSR_PORT, TCP, SYN);
        plane.expect("first", &syn.bytes(), &plane.at_node(&syn).bytes());
        let returned = back(&syn, 1, BACKEND_MAC);
        plane.expect("by nat", &returned.bytes(), &plane.by_nat(&returned, CLIENT_PORT).bytes());
        assert_eq!(plane.reason(Reason::NatInstead), 1);
        let answer = plane.answer(CLIENT_PORT, SYN | ACK);
        let received = Frame {
            from: (plane.vip(), DSR_PORT),
            macs: (BACKEND_MAC, LB_MAC),
            ..plane.reply_received(SYN | ACK)
        };
        plane.expect("answer", &answer.bytes(), &received.bytes());
        // The answer goes to where the last packet came from; the client's own next packet puts that right.
        let ack = plane.to_vip(DSR_PORT, TCP, ACK);
        plane.expect("ACK", &ack.bytes(), &plane.by_nat(&ack, CLIENT_PORT).bytes());
        let received = Frame { macs: (CLIENT_MAC, LB_MAC), tcp_flags: ACK, ..received };
        plane.expect("reply", &plane.answer(CLIENT_PORT, ACK).bytes(), &received.bytes());
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 1);
        assert!(plane.entries::<24, 24>(maps::PENDING_FLOWS.name).is_empty());

        // In the middle of a connection there is nothing to begin.
        let middle = Frame { from: (plane.client(), 4000), ..plane.to_vip(DSR_PORT, TCP, ACK) };
        plane.expect("middle", &middle.bytes(), &plane.at_node(&middle).bytes());
        plane.expect_reason("back", &back(&middle, 1, BACKEND_MAC).bytes(), Reason::Returned);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_refusal_by_nat_does_not_reach_a_client_of_a_dsr_frontend() {
    everywhere(|plane| {
        plane.falls_back();
        let syn = plane.to_vip(DSR_PORT, TCP, SYN);
        plane.expect("first", &syn.bytes(), &plane.at_node(&syn).bytes());
        let port = plane.snat_port_of(&back(&syn, 1, BACKEND_MAC));
        // The Node has no rule for the nodePort yet, either.
        plane.expect_reason("refused", &plane.answer(port, RST | ACK).bytes(), Reason::Refused);
        // The repeated SYN tries mode DSR again. Then the Node has its rule.
        plane.expect("again", &syn.bytes(), &plane.at_node(&syn).bytes());
        assert!(plane.entries::<24, 40>(maps::PENDING_REPLIES.name).is_empty());
        let ack = plane.to_vip(DSR_PORT, TCP, ACK);
        plane.expect("ACK", &ack.bytes(), &plane.at_node(&ack).bytes());
    });
}
