// SPDX-License-Identifier: Apache-2.0
//! Rows about later fragments that come before the first one of their packet.

use bytemuck::pod_read_unaligned;
use llb_common::address::Mac;
use llb_common::conntrack::{ACK, SYN};
use llb_common::early::{LARGE_FRAME, Release, SMALL_FRAME};
use llb_common::frontend::TCP;
use llb_common::reason::Reason;

use super::everywhere;
use crate::frames::{Frame, checksum, ethernet, ip};
use crate::plane::{BACKEND_MAC, DSR_PORT, LB_MAC, LINK, NAT_PORT, Outcome, Plane};

impl Plane {
    /// The agent has got a copy of this frame.
    fn expect_copy(&mut self, frame: &[u8], room: usize) {
        let given = self.program.early();
        assert_eq!(given.len(), 1, "{:?}", self.hook);
        assert_eq!((given[0].len(), &given[0][..frame.len()]), (room, frame), "{:?}", self.hook);
    }

    /// The agent was told that the fragments that it has may go where `sent` went.
    fn expect_release(&mut self, sent: &Frame, is_nat: bool) {
        let given = self.program.early();
        assert_eq!(given.len(), 1, "{:?}", self.hook);
        let release: Release = pod_read_unaligned(&given[0]);
        assert_eq!((release.source, release.destination), (sent.from.0, sent.to.0));
        assert_eq!(
            (release.destination_mac, release.source_mac),
            (Mac::new(sent.macs.0), Mac::new(sent.macs.1))
        );
        assert_eq!((release.ifindex, release.is_nat), (LINK, u32::from(is_nat)));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_agent_gets_fragments_that_come_before_the_first_one() {
    everywhere(|plane| {
        let (whole, expected) = (plane.to_vip(NAT_PORT, TCP, SYN), plane.to_backend(SYN));
        let [first, later] = [true, false].map(|is_first| fragment(&whole, is_first));
        for name in ["overtaking", "another one"] {
            plane.expect_reason(name, &later, Reason::EarlyFragment);
            plane.expect_copy(&later, SMALL_FRAME);
        }
        plane.expect("first", &first, &fragment(&expected, true));
        plane.expect_release(&expected, true);
        plane.expect("later", &later, &fragment(&expected, false));
        plane.expect("first again", &first, &fragment(&expected, true));
        assert_eq!(plane.program.early(), Vec::<Vec<u8>>::new());

        let (whole, expected) = (plane.reply_sent(SYN | ACK), plane.reply_received(SYN | ACK));
        plane.expect_reason("reply", &fragment(&whole, false), Reason::EarlyFragment);
        plane.expect_copy(&fragment(&whole, false), SMALL_FRAME);
        plane.expect("first reply", &fragment(&whole, true), &fragment(&expected, true));
        plane.expect_release(&expected, true);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn in_mode_dsr_early_fragments_go_to_the_same_node() {
    everywhere(|plane| {
        let whole = plane.to_vip(DSR_PORT, TCP, SYN);
        plane.expect_reason("overtaking", &fragment(&whole, false), Reason::EarlyFragment);
        plane.expect_copy(&fragment(&whole, false), SMALL_FRAME);
        let node = plane.at_node(&whole);
        plane.expect("first", &fragment(&whole, true), &fragment(&node, true));
        plane.expect_release(&node, false);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn large_early_fragments_are_given_too() {
    everywhere(|plane| {
        let whole = Frame { payload: vec![7; 2000], ..plane.to_vip(NAT_PORT, TCP, SYN) };
        plane.expect_reason("large", &fragment(&whole, false), Reason::EarlyFragment);
        plane.expect_copy(&fragment(&whole, false), LARGE_FRAME);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_agent_gets_no_fragments_that_are_left_to_the_kernel() {
    everywhere(|plane| {
        let own = plane.to_vip(NAT_PORT, TCP, SYN);
        let to_host = Frame { to: (plane.address(77), NAT_PORT), ..own.clone() };
        plane.expect_reason("another address", &fragment(&to_host, false), Reason::UnknownFragment);
        // The first one has passed, so the later ones do, too.
        let rows = [
            ("another port", Frame { to: (plane.vip(), 9), ..own.clone() }),
            ("the host's own", Frame { macs: (LB_MAC, BACKEND_MAC), ..plane.reply_sent(ACK) }),
        ];
        for (name, frame) in rows {
            assert_eq!(plane.run(&fragment(&frame, true)), Outcome::Pass, "{name}");
            plane.expect_reason(name, &fragment(&frame, false), Reason::UnknownFragment);
        }
        // Also if the first one comes last: the kernel has them all.
        let late = Frame { from: (plane.address(12), 5000), to: (plane.vip(), 9), ..own };
        plane.expect_reason("early", &fragment(&late, false), Reason::EarlyFragment);
        plane.expect_copy(&fragment(&late, false), SMALL_FRAME);
        assert_eq!(plane.run(&fragment(&late, true)), Outcome::Pass);
        assert_eq!(plane.program.early(), Vec::<Vec<u8>>::new());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flood_of_lone_fragments_fills_the_ring_and_no_more() {
    everywhere(|plane| {
        let frame = fragment(&plane.to_vip(NAT_PORT, TCP, ACK), false);
        let before = plane.reason(Reason::UnknownFragment);
        for _ in 0..1000 {
            assert_eq!(plane.run(&frame), Outcome::Pass);
        }
        let given = plane.program.early().len() as u64;
        let refused = plane.reason(Reason::UnknownFragment) - before;
        assert!(given > 500 && given + refused == 1000, "{given} {refused}");
    });
}

/// A fragment with the first 24 bytes of the packet's TCP segment, or one with the rest.
pub(super) fn fragment(frame: &Frame, is_first: bool) -> Vec<u8> {
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
