// SPDX-License-Identifier: Apache-2.0
//! Every reason for not forwarding a packet, on both hooks.

use llb_common::address::Mac;
use llb_common::backend::{BackendId, DEAD, DRAINING};
use llb_common::conntrack::{ACK, RST, SYN};
use llb_common::frontend::{
    DSR, DSR_TIME_TO_LIVE, KNOWN_FLOWS_ONLY, NAT_INSTEAD, OPENINGS_ONLY, RESTRICTED, TCP, UDP,
};
use llb_common::maps;
use llb_common::reason::Reason;

use super::early::fragment;
use super::everywhere;
use crate::frames::{Frame, icmp_error, ip};
use crate::plane::{CLIENT_MAC, DSR_PORT, EMPTY_PORT, Family, LB_MAC, NAT_PORT, Outcome, Plane};

impl Plane {
    /// Whether this reason can occur at all with this hook and family.
    fn can_be(&self, reason: Reason) -> bool {
        match reason {
            // Only IPv4 allows UDP without a checksum.
            Reason::NoChecksum => self.family == Family::V6,
            // The kernel refuses only what the parser did not notice.
            Reason::Failed => false,
            _ => true,
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
#[expect(clippy::too_many_lines, reason = "a table of packets")]
fn every_reason_is_reached() {
    everywhere(|plane| {
        // A table with one line has no places.
        *plane =
            Plane::with_sizes(plane.hook, plane.family, &[(maps::FLOWS.name, 1), (maps::REPLIES.name, 1)]);
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
        let bits = if plane.family == Family::V4 { 32 } else { 128 };
        plane.admit(plane.address(8), bits - 3, true);
        assert!(matches!(plane.run(&unknown.bytes()), Outcome::Sent(_)), "admitted");
        plane.admit(plane.address(11), bits, false);
        let part = Frame { from: (plane.address(11), 5999), ..syn(plane) };
        plane.expect_reason("a refused part of a range", &part.bytes(), Reason::SourceDenied);
        plane.frontend(NAT_PORT, |_| ());
        plane.handshake();
        plane.frontend(NAT_PORT, |entry| entry.flags = OPENINGS_ONLY);
        let of_another = |flags| Frame { from: (plane.client(), 5998), ..plane.to_vip(NAT_PORT, TCP, flags) };
        plane.expect_reason("the relay's", &of_another(ACK).bytes(), Reason::NotTaken);
        assert!(matches!(plane.run(&of_another(SYN).bytes()), Outcome::Sent(_)), "opens");
        plane.frontend(NAT_PORT, |entry| entry.flags = KNOWN_FLOWS_ONLY);
        let new = Frame { from: (plane.client(), 5997), ..syn(plane) };
        plane.expect_reason("another plane's", &new.bytes(), Reason::NotTaken);
        plane.expect("known", &plane.to_vip(NAT_PORT, TCP, ACK).bytes(), &plane.to_backend(ACK).bytes());
        plane.frontend(NAT_PORT, |_| ());
        let second = |frame: Frame| Frame { from: (plane.client(), 5003), ..frame };
        let answer = Frame { to: (plane.snat(), 5003), ..plane.reply_sent(SYN | ACK) };
        let before = plane.reason(Reason::FlowsFull);
        for frame in [second(syn(plane)), answer, second(plane.to_vip(NAT_PORT, TCP, ACK))] {
            assert!(matches!(plane.run(&frame.bytes()), Outcome::Sent(_)), "full");
        }
        assert_eq!(plane.reason(Reason::FlowsFull), before + 1);
        if plane.family == Family::V6 {
            let mut bytes = plane.to_vip(NAT_PORT, UDP, 0).bytes();
            bytes[60..62].fill(0);
            plane.expect_reason("no checksum", &bytes, Reason::NoChecksum);
        }
        let mut later = syn(plane).bytes();
        match plane.family {
            Family::V4 => later[21] = 1,
            Family::V6 => {
                later[20] = 44;
                later.splice(54..54, [TCP, 0, 0, 8, 1, 2, 3, 4]);
            }
        }
        plane.expect_reason("early fragment", &later, Reason::EarlyFragment);
        let to_host = Frame { to: (plane.address(77), NAT_PORT), ..syn(plane) };
        plane.expect_reason("later fragment", &fragment(&to_host, false), Reason::UnknownFragment);

        // The reply entry of the flow is there, but its backend is not; then an index that was reused.
        plane.backend(1, |backend| backend.id = BackendId::new(1, 2));
        plane.expect_reason("stale", &plane.reply_sent(ACK).bytes(), Reason::StaleReply);
        plane.expect_reason("the backend is gone", &syn(plane).bytes(), Reason::NoLiveBackend);
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
        plane.one_port();
        let other = Frame { from: (plane.client(), 5001), ..syn(plane) };
        plane.expect_reason("ports", &other.bytes(), Reason::PortsExhausted);
        plane.settings(|settings| settings.flow_budget = 0);
        plane.expect_reason("budget", &other.bytes(), Reason::OverBudget);
        let dsr = Frame { from: (plane.client(), 5002), ..plane.to_vip(DSR_PORT, TCP, SYN) };
        plane.expect("dsr", &dsr.bytes(), &plane.at_node(&dsr).bytes());
        assert_eq!(plane.reason(Reason::NotRemembered), 1);
        plane.settings(|_| ());
        let back = Frame { time_to_live: DSR_TIME_TO_LIVE - 1, ..dsr.clone() };
        plane.expect_reason("back", &back.bytes(), Reason::Returned);
        plane.frontend(DSR_PORT, |entry| entry.flags = DSR | NAT_INSTEAD);
        assert!(matches!(plane.run(&back.bytes()), Outcome::Sent(_)), "by nat");
        assert_eq!(plane.reason(Reason::NatInstead), 1);
        plane.two_hosts(0);
        let refusal = plane.sent_by_host(plane.ask(6000), RST | ACK).bytes();
        plane.expect_reason("refused", &refusal, Reason::Refused);
        let forged = Frame { numbers: (1, 1 << 31), ..plane.sent_by_host(plane.ask(6001), RST | ACK) };
        plane.expect_reason("forged", &forged.bytes(), Reason::FalseRefusal);
        let own = Frame { from: plane.to_vip(NAT_PORT, TCP, SYN).to, ..syn(plane) };
        plane.expect_reason("martian", &own.bytes(), Reason::Martian);
        let canary = Frame { from: (plane.snat(), 61_000), time_to_live: DSR_TIME_TO_LIVE - 1, ..dsr };
        plane.expect_reason("canary", &canary.bytes(), Reason::Canary);
        for reason in Reason::ALL.into_iter().filter(|reason| plane.can_be(*reason)) {
            assert!(plane.reason(reason) > 0, "{reason:?} was never reached");
        }
    });
}
