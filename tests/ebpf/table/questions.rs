// SPDX-License-Identifier: Apache-2.0
//! UDP of one question and one answer, as of DNS: when its source port may go to another client.

use llb_common::address::Address;
use llb_common::frontend::UDP;
use llb_common::port_holder::{CONVERSATION_TICKS, OPENING_TICKS, QUESTION_TICKS};
use llb_common::reason::Reason;

use super::{CLIENT_PORT, everywhere};
use crate::frames::Frame;
use crate::plane::{NAT_PORT, Outcome, Plane};

impl Plane {
    /// Only UDP, and only one source port.
    fn questions(&mut self) {
        self.one_port();
        self.backend(1, |backend| backend.protocol = UDP);
    }

    fn question(&self, client: Address) -> Vec<u8> {
        Frame { from: (client, CLIENT_PORT), ..self.to_vip(NAT_PORT, UDP, 0) }.bytes()
    }

    fn asks(&self, last: u8) {
        let asked = Frame { protocol: UDP, ..self.to_backend(0) };
        self.expect("question", &self.question(self.address(last)), &asked.bytes());
    }

    fn is_answered(&self, last: u8) {
        let sent = Frame { protocol: UDP, ..self.reply_sent(0) };
        let to = (self.address(last), CLIENT_PORT);
        self.expect("answer", &sent.bytes(), &Frame { to, protocol: UDP, ..self.reply_received(0) }.bytes());
    }

    fn must_wait(&self, last: u8) {
        self.expect_reason("question", &self.question(self.address(last)), Reason::PortsExhausted);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_answered_question_gives_its_port_up_soon() {
    everywhere(|plane| {
        plane.questions();
        for client in 11..14 {
            plane.asks(client);
            plane.is_answered(client);
            plane.began(0);
            plane.must_wait(client + 1);
            plane.began(OPENING_TICKS);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_late_answer_reaches_the_client_that_asked() {
    everywhere(|plane| {
        plane.questions();
        plane.asks(11);
        plane.began(OPENING_TICKS);
        plane.must_wait(12);
        plane.is_answered(11);
        // The time counts from the answer on.
        plane.must_wait(12);
        plane.began(OPENING_TICKS);
        plane.asks(12);
        // Nobody waits for so long.
        plane.began(QUESTION_TICKS);
        plane.asks(13);
        plane.is_answered(13);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_conversation_keeps_its_port_for_two_minutes() {
    everywhere(|plane| {
        plane.questions();
        for _ in 0..2 {
            plane.asks(11);
            plane.is_answered(11);
        }
        plane.began(CONVERSATION_TICKS - 10);
        plane.must_wait(12);
        plane.began(CONVERSATION_TICKS);
        plane.asks(12);
        plane.is_answered(12);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_answered_question_goes_before_one_without_an_answer() {
    everywhere(|plane| {
        plane.questions();
        plane.settings(|settings| {
            (settings.snat_first_port, settings.snat_last_port) = (CLIENT_PORT, CLIENT_PORT + 1);
        });
        plane.asks(11);
        let from_second = |plane: &Plane| {
            let to_backend = plane.to_backend(0);
            Frame { from: (plane.snat(), CLIENT_PORT + 1), protocol: UDP, ..to_backend }.bytes()
        };
        plane.expect("second port", &plane.question(plane.address(12)), &from_second(plane));
        let sent = Frame { to: (plane.snat(), CLIENT_PORT + 1), protocol: UDP, ..plane.reply_sent(0) };
        assert!(matches!(plane.run(&sent.bytes()), Outcome::Sent(_)));
        // The first port is tried before the second one.
        plane.began(QUESTION_TICKS);
        plane.expect("answered", &plane.question(plane.address(13)), &from_second(plane));
        plane.asks(14);
    });
}
