// SPDX-License-Identifier: Apache-2.0
//! Rows about backends that refuse or do not answer new connections.

use bytemuck::{bytes_of, pod_read_unaligned};
use llb_common::backend::{BackendId, DEAD, FailureKind, FailureMark};
use llb_common::conntrack::{ACK, FIN, RST, ReplyEntry, SYN};
use llb_common::frontend::{KNOWN_FLOWS_ONLY, TCP};
use llb_common::maps;
use llb_common::reason::Reason;
use llb_common::time::Tick;

use super::selection::MACS;
use super::{CLIENT_PORT, everywhere};
use crate::frames::{Frame, icmp_error, ip, unreachable};
use crate::plane::{BACKEND_MAC, Family, LB_MAC, NAT_PORT, Outcome, Plane, now};
use crate::programs::raw;

pub(super) const REFUSED: u8 = RST | ACK;

/// Ids of the backends in mode NAT that `Plane::two_hosts` creates.
const IDS: [u32; 2] = [1, 3];

/// A flow of the client: what its SYN to a backend looked like.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    client_port: u16,
    pub(super) host: usize,
    snat_port: u16,
}

impl Plane {
    fn syn(&self, client_port: u16) -> Frame {
        Frame { from: (self.client(), client_port), ..self.to_vip(NAT_PORT, TCP, SYN) }
    }

    pub(super) fn ask(&self, client_port: u16) -> Asked {
        let Outcome::Sent(bytes) = self.run(&self.syn(client_port).bytes()) else { panic!("not sent") };
        let host = MACS.iter().position(|mac| bytes[..6] == *mac).unwrap();
        let at = if self.family == Family::V4 { 34 } else { 54 };
        // Sockets of this machine may use the first candidates, so the port is read from the packet.
        Asked { client_port, host, snat_port: u16::from_be_bytes([bytes[at], bytes[at + 1]]) }
    }

    /// A packet of this flow from its backend.
    pub(super) fn sent_by_host(&self, asked: Asked, flags: u8) -> Frame {
        let sent = self.reply_sent(flags);
        let address = self.address(21 + asked.host as u8);
        Frame { from: (address, sent.from.1), to: (self.snat(), asked.snat_port), ..sent }
    }

    pub(super) fn reaches_the_client(&self, asked: Asked, flags: u8) {
        let expected = Frame { to: (self.client(), asked.client_port), ..self.reply_received(flags) };
        self.expect("reply", &self.sent_by_host(asked, flags).bytes(), &expected.bytes());
    }

    /// Opens this many flows from the port `first` on, which their backends answer, and returns the hosts that
    /// got them.
    pub(super) fn hosts_of(&self, first: u16, flows: u16) -> Vec<usize> {
        let ask = |client_port| {
            let asked = self.ask(client_port);
            self.reaches_the_client(asked, SYN | ACK);
            asked.host
        };
        (first..first + flows).map(ask).collect()
    }

    /// Makes it look as if a second or more has passed since all unanswered flows began, or no time at all.
    pub(super) fn waits(&mut self, is_over: bool) {
        for (key, entry) in self.entries::<24, 40>(maps::PENDING_REPLIES.name) {
            let used = if is_over { 0 } else { Tick::MAX };
            let entry = ReplyEntry { used, ..pod_read_unaligned(&entry) };
            self.program.insert(maps::PENDING_REPLIES.name, key, raw::<40>(bytes_of(&entry)));
        }
    }

    /// Writes a mark of this many seconds ago, or up to two seconds earlier: the programs' clock is behind.
    pub(super) fn is_marked(&mut self, host: usize, kind: FailureKind, secs_ago: u32) {
        let ticks = if secs_ago == 0 { 0 } else { secs_ago + 1 };
        let mark = FailureMark::new(kind, now() - ticks);
        self.program.insert(maps::FAILING.name, BackendId::new(IDS[host], 1).0, mark.0);
    }

    /// The agent finds the backend dead.
    pub(super) fn dies(&mut self, host: usize) {
        self.is_marked(host, FailureKind::Dead, 0);
    }

    pub(super) fn failing(&self) -> usize {
        self.entries::<4, 4>(maps::FAILING.name).len()
    }

    /// How each backend failed, as the agent reads it. The times are those of now.
    pub(super) fn failures(&self) -> Vec<FailureKind> {
        let marks = self.entries::<4, 4>(maps::FAILING.name).into_iter();
        let marks = marks.map(|(_, mark)| pod_read_unaligned::<FailureMark>(&mark));
        marks.inspect(|mark| assert!(now() - mark.tick() < 10, "{mark:?}")).map(FailureMark::kind).collect()
    }

    /// Number of backends whose packets count as replies of this flow.
    fn replies_of(&self, client_port: u16) -> usize {
        let entries = self.entries::<24, 40>(maps::PENDING_REPLIES.name);
        let of_it = |entry: &ReplyEntry| entry.client_port.number() == client_port;
        entries.iter().filter(|(_, entry)| of_it(&pod_read_unaligned(entry))).count()
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_refused_connection_goes_to_another_backend() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let first = plane.ask(CLIENT_PORT);
        let refusal = plane.sent_by_host(first, REFUSED).bytes();
        plane.expect_reason("refused", &refusal, Reason::Refused);
        plane.expect_reason("again", &refusal, Reason::Refused);
        assert_eq!(plane.failures(), [FailureKind::Refused]);
        // The client repeats its SYN, at whatever time.
        plane.waits(false);
        let second = plane.ask(CLIENT_PORT);
        assert_ne!(first.host, second.host);
        assert_eq!(plane.replies_of(CLIENT_PORT), 1);
        assert_eq!(plane.run(&refusal), Outcome::Pass, "from the old backend");
        plane.reaches_the_client(second, SYN | ACK);
        let ack = Frame { tcp_flags: ACK, ..plane.syn(CLIENT_PORT) };
        assert_eq!(plane.host(&ack), second.host);
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 1);
        assert_eq!(plane.reason(Reason::Refused), 2);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_unreachable_backend_counts_as_one_that_refuses() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let first = plane.ask(CLIENT_PORT);
        let about = |frame: &Frame| ip(frame.from.0, frame.to.0, TCP, 60, &frame.transport()[..8]);
        let answer = plane.sent_by_host(first, 0);
        let seen = about(&Frame { from: answer.to, to: answer.from, ..answer });
        let macs = (LB_MAC, BACKEND_MAC);
        let (router, snat) = (plane.address(98), plane.snat());
        // With a smaller packet it could be reached.
        assert!(matches!(plane.run(&icmp_error(macs, router, snat, &seen)), Outcome::Sent(_)));
        let refusal = unreachable(macs, router, snat, &seen);
        plane.expect_reason("unreachable", &refusal, Reason::Refused);
        let second = plane.ask(CLIENT_PORT);
        assert_ne!(first.host, second.host);
        plane.reaches_the_client(second, SYN | ACK);
        assert_eq!(plane.failures(), [FailureKind::Refused]);
        // The other one may have lost a packet only.
        plane.is_marked(1 - first.host, FailureKind::Unanswered, 0);
        let asked = (2000..2060).map(|port| plane.ask(port)).find(|asked| asked.host == first.host);
        plane.expect_reason("refused", &plane.sent_by_host(asked.unwrap(), REFUSED).bytes(), Reason::Refused);

        // No other backend may take the flow, so the client is told.
        plane.two_hosts(0);
        let asked = plane.ask(3000);
        plane.dies(1 - asked.host);
        let answer = plane.sent_by_host(asked, 0);
        let seen = about(&Frame { from: answer.to, to: answer.from, ..answer });
        assert!(matches!(plane.run(&unreachable(macs, router, snat, &seen)), Outcome::Sent(_)));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_that_is_not_answered_goes_to_another_backend() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let first = plane.ask(CLIENT_PORT);
        plane.waits(false);
        assert_eq!([plane.ask(CLIENT_PORT).host, plane.failing()], [first.host, 0], "a copy");
        plane.waits(true);
        let second = plane.ask(CLIENT_PORT);
        assert_ne!(first.host, second.host);
        assert_eq!(plane.failures(), [FailureKind::Unanswered]);
        assert_eq!(plane.replies_of(CLIENT_PORT), 1);
        // Too late: the packet goes to the kernel, which resets the connection.
        assert_eq!(plane.run(&plane.sent_by_host(first, SYN | ACK).bytes()), Outcome::Pass);
        plane.reaches_the_client(second, SYN | ACK);
        // An answered connection stays where it is, however often its SYN is repeated.
        plane.waits(true);
        assert_eq!(plane.ask(CLIENT_PORT).host, second.host);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_unanswered_client_tries_one_backend_after_the_other() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let asked: Vec<_> = (0..4)
            .map(|_| {
                plane.waits(true);
                plane.ask(CLIENT_PORT)
            })
            .collect();
        let hosts: Vec<_> = asked.iter().map(|asked| asked.host).collect();
        assert_eq!(hosts, [hosts[0], 1 - hosts[0], hosts[0], 1 - hosts[0]]);
        plane.reaches_the_client(asked[3], SYN | ACK);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_refusal_reaches_the_client_if_no_other_backend_takes_the_flow() {
    everywhere(|plane| {
        // With only one backend.
        let syn = plane.syn(CLIENT_PORT).bytes();
        plane.expect("SYN", &syn, &plane.to_backend(SYN).bytes());
        let refusal = plane.reply_sent(REFUSED).bytes();
        plane.expect("the only one", &refusal, &plane.reply_received(REFUSED).bytes());
        assert_eq!(plane.failing(), 1);
        plane.expect("sent again", &syn, &plane.to_backend(SYN).bytes());

        plane.two_hosts(0);
        for client_port in 2000..2010 {
            let asked = plane.ask(client_port);
            plane.dies(1 - asked.host);
            plane.reaches_the_client(asked, REFUSED);
        }
        for (n, kind) in [FailureKind::Refused, FailureKind::RefusedAgain].into_iter().enumerate() {
            plane.two_hosts(0);
            let asked = plane.ask(2020 + n as u16);
            plane.is_marked(1 - asked.host, kind, 0);
            plane.reaches_the_client(asked, REFUSED);
        }
        // All backends fail, so each flow goes where it would have gone.
        let hosts = plane.hosts_of(3000, 1);
        plane.dies(0);
        plane.dies(1);
        let others: Vec<_> = (3001..3040).map(|port| plane.ask(port).host).collect();
        assert!(others.contains(&0) && others.contains(&1), "{hosts:?} {others:?}");

        plane.two_hosts(0);
        let asked = plane.ask(4000);
        plane.backend(IDS[1 - asked.host], |backend| backend.state = DEAD);
        plane.reaches_the_client(asked, REFUSED);
        plane.two_hosts(0);
        let asked = plane.ask(4001);
        plane.frontend(NAT_PORT, |entry| entry.flags = KNOWN_FLOWS_ONLY);
        plane.reaches_the_client(asked, REFUSED);
        assert_eq!(plane.reason(Reason::Refused), 0);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn affinity_moves_away_from_a_backend_that_fails() {
    everywhere(|plane| {
        plane.two_hosts(100);
        let first = plane.ask(2000);
        plane.expect_reason("refused", &plane.sent_by_host(first, REFUSED).bytes(), Reason::Refused);
        let second = plane.ask(2000).host;
        assert_ne!(first.host, second);
        // The affinity then stays with the new backend.
        assert_eq!(plane.hosts_of(2001, 10), [second; 10]);
        plane.dies(second);
        assert_eq!(plane.hosts_of(2011, 10), [first.host; 10]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_from_a_port_that_was_used_before_begins_again() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let first = plane.ask(CLIENT_PORT);
        let forward = |flags| Frame { tcp_flags: flags, ..plane.syn(CLIENT_PORT) };
        let sends = |flags| assert_eq!(plane.host(&forward(flags)), first.host);
        plane.reaches_the_client(first, SYN | ACK);
        sends(ACK);
        sends(FIN | ACK);
        // The backend has not closed its direction.
        sends(SYN);
        sends(FIN | ACK);
        plane.reaches_the_client(first, FIN | ACK);
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 1);
        let again = plane.ask(CLIENT_PORT);
        assert_eq!([again.host, plane.entries::<24, 24>(maps::FLOWS.name).len()], [first.host, 0]);
        plane.expect_reason("refused", &plane.sent_by_host(again, REFUSED).bytes(), Reason::Refused);
        let second = plane.ask(CLIENT_PORT);
        assert_ne!(second.host, first.host);
        plane.reaches_the_client(second, SYN | ACK);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reset_that_refuses_no_new_connection_reaches_the_client() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let answered = plane.ask(2000);
        plane.reaches_the_client(answered, SYN | ACK);
        plane.reaches_the_client(answered, REFUSED);
        // A flow that began elsewhere and is not known here.
        let ack = Frame { tcp_flags: ACK, ..plane.syn(2001) };
        let host = plane.host(&ack);
        plane.reaches_the_client(Asked { client_port: 2001, host, snat_port: 2001 }, REFUSED);
        assert_eq!(plane.failing(), 0);
        assert_eq!(plane.reason(Reason::Refused), 0);
    });
}
