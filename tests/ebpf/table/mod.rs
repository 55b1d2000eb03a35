// SPDX-License-Identifier: Apache-2.0
//! Packets in, verdict and bytes out: each row runs for both families and both hooks. This file has what the
//! rows share; each subject has a file of its own.

mod connections;
mod early;
mod ends;
mod errors;
mod failing;
mod lost;
mod martians;
mod ports;
mod questions;
mod reasons;
mod return_path;
mod returned;
mod selection;
mod shapes;
mod suspects;

use llb_common::conntrack::{ACK, SYN};
use llb_common::frontend::{DSR_TIME_TO_LIVE, TCP};
use llb_common::reason::{Reason, Verdict};

use crate::frames::Frame;
use crate::plane::{BACKEND_MAC, BACKEND_PORT, CLIENT_MAC, Family, Hook, LB_MAC, NAT_PORT, Outcome, Plane};

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
    pub(super) fn to_vip(&self, port: u16, protocol: u8, tcp_flags: u8) -> Frame {
        Frame {
            macs: (LB_MAC, CLIENT_MAC),
            from: (self.client(), CLIENT_PORT),
            to: (self.vip(), port),
            protocol,
            tcp_flags,
            numbers: (1, 2),
            time_to_live: 64,
            payload: b"hello llb".to_vec(),
        }
    }

    pub(super) fn to_backend(&self, tcp_flags: u8) -> Frame {
        Frame {
            macs: (BACKEND_MAC, LB_MAC),
            from: (self.snat(), CLIENT_PORT),
            to: (self.backend_address(), BACKEND_PORT),
            time_to_live: 63,
            ..self.to_vip(NAT_PORT, TCP, tcp_flags)
        }
    }

    pub(super) fn reply_sent(&self, tcp_flags: u8) -> Frame {
        let sent = self.to_backend(tcp_flags);
        Frame { macs: (LB_MAC, BACKEND_MAC), from: sent.to, to: sent.from, time_to_live: 64, ..sent }
    }

    pub(super) fn reply_received(&self, tcp_flags: u8) -> Frame {
        let sent = self.to_vip(NAT_PORT, TCP, tcp_flags);
        Frame { macs: (CLIENT_MAC, LB_MAC), from: sent.to, to: sent.from, time_to_live: 63, ..sent }
    }

    /// What the Node gets of a packet in mode DSR.
    pub(super) fn at_node(&self, sent: &Frame) -> Frame {
        Frame { macs: (BACKEND_MAC, LB_MAC), time_to_live: DSR_TIME_TO_LIVE, ..sent.clone() }
    }

    pub(super) fn expect(&self, name: &str, sent: &[u8], expected: &[u8]) {
        match self.run(sent) {
            Outcome::Sent(bytes) => assert_eq!(bytes, expected, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }

    pub(super) fn expect_reason(&self, name: &str, frame: &[u8], reason: Reason) {
        let before = self.reason(reason);
        let outcome = self.run(frame);
        assert_eq!(self.reason(reason), before + 1, "{name}: {outcome:?}");
        let expected = if reason.verdict() == Verdict::Drop { Outcome::Drop } else { Outcome::Pass };
        assert_eq!(outcome, expected, "{name}");
    }

    pub(super) fn handshake(&self) {
        self.expect("SYN", &self.to_vip(NAT_PORT, TCP, SYN).bytes(), &self.to_backend(SYN).bytes());
        self.expect("SYN-ACK", &self.reply_sent(SYN | ACK).bytes(), &self.reply_received(SYN | ACK).bytes());
        self.expect("ACK", &self.to_vip(NAT_PORT, TCP, ACK).bytes(), &self.to_backend(ACK).bytes());
    }
}
