// SPDX-License-Identifier: Apache-2.0
//! Rows about backends that connections made suspicious: they keep their share of new flows until the agent finds
//! them dead, or they refuse two in a row.

use llb_common::backend::{FAILING_SECS, FailureKind, REFUSING_SECS};
use llb_common::conntrack::{ACK, SYN};
use llb_common::reason::Reason;

use super::failing::{Asked, REFUSED};
use super::{CLIENT_PORT, everywhere};
use crate::plane::Plane;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn two_connections_that_are_refused_in_a_row_keep_others_away_for_a_moment() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let first = plane.ask(CLIENT_PORT);
        let refuses = |plane: &Plane, asked: Asked| {
            plane.expect_reason("refused", &plane.sent_by_host(asked, REFUSED).bytes(), Reason::Refused);
        };
        let one_at = |plane: &Plane, host: usize, first: u16| {
            (first..first + 60).map(|port| plane.ask(port)).find(|asked| asked.host == host).unwrap()
        };
        refuses(plane, first);
        // Its client repeats the SYN twice at once: still one connection.
        plane.waits(false);
        refuses(plane, first);
        assert_eq!(plane.failures(), [FailureKind::Refused]);
        // Others still go there. One is answered, which takes the mark back; another one is refused.
        plane.reaches_the_client(one_at(plane, first.host, 2000), SYN | ACK);
        assert_eq!(plane.failing(), 0);
        refuses(plane, one_at(plane, first.host, 3000));
        assert_eq!(plane.failures(), [FailureKind::Refused]);
        refuses(plane, one_at(plane, first.host, 4000));
        assert_eq!(plane.failures(), [FailureKind::RefusedAgain]);
        assert_eq!(plane.hosts_of(5000, 40), [1 - first.host; 40]);
        // Without a word of the agent, that ends soon.
        plane.is_marked(first.host, FailureKind::RefusedAgain, REFUSING_SECS);
        refuses(plane, one_at(plane, first.host, 6000));
        assert_eq!(plane.hosts_of(7000, 40), [1 - first.host; 40], "it goes on");
    });
}

/// A client whose SYNs are wrong, or get lost behind this machine, moves alone.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_client_that_is_not_answered_takes_no_backend_from_others() {
    everywhere(|plane| {
        plane.two_hosts(0);
        for round in 0..8 {
            for client_port in CLIENT_PORT..CLIENT_PORT + 8 {
                let _ = plane.ask(client_port);
            }
            plane.waits(true);
            let asked: Vec<_> = (0..40).map(|n| plane.ask(2000 + 40 * round + n).host).collect();
            assert!(asked.contains(&0) && asked.contains(&1), "round {round}: {asked:?}");
        }
        assert_eq!(plane.failures(), [FailureKind::Unanswered; 2]);
        let hosts = plane.hosts_of(5000, 40);
        assert!(hosts.contains(&0) && hosts.contains(&1), "{hosts:?}");
        assert_eq!(plane.failing(), 0, "each answer takes a mark back");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_that_moves_avoids_a_suspected_backend_and_other_connections_do_not() {
    everywhere(|plane| {
        plane.two_hosts(0);
        for kind in [FailureKind::Unanswered, FailureKind::Refused] {
            let asked = plane.ask(CLIENT_PORT);
            plane.is_marked(0, kind, 0);
            plane.is_marked(1, kind, 0);
            plane.waits(true);
            // Both are suspected, so it may go to any but the one that has not answered.
            assert_ne!(plane.ask(CLIENT_PORT).host, asked.host);
            let others: Vec<_> = (2000..2040).map(|port| plane.ask(port).host).collect();
            assert!(others.contains(&0) && others.contains(&1), "{kind:?}: {others:?}");
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_dead_backend_gets_no_new_flow_until_it_answers_or_its_mark_ends() {
    everywhere(|plane| {
        plane.two_hosts(0);
        plane.is_marked(0, FailureKind::Dead, FAILING_SECS / 2);
        assert_eq!(plane.hosts_of(2000, 40), [1; 40], "a moment ago");
        // What clients find does not change it.
        for _ in 0..3 {
            assert_eq!(plane.ask(3000).host, 1, "a dead one is worse than one that did not answer once");
            plane.waits(true);
        }
        assert_eq!(plane.failing(), 2);
        assert!(plane.failures().contains(&FailureKind::Dead));
        // If both are dead, it tries both.
        plane.dies(1);
        assert_eq!([plane.ask(3000).host, plane.ask(3000).host], [0, 1]);
        plane.reaches_the_client(plane.ask(3000), SYN | ACK);
        // No agent renews the marks.
        plane.is_marked(0, FailureKind::Dead, FAILING_SECS);
        plane.is_marked(1, FailureKind::Dead, FAILING_SECS);
        let hosts = plane.hosts_of(4000, 40);
        assert!(hosts.contains(&0) && hosts.contains(&1), "{hosts:?}");
        assert_eq!(plane.failing(), 0, "they answer");
    });
}
