// SPDX-License-Identifier: Apache-2.0
//! Rows about a backend that can't be reached for a while: the agent takes its MAC address away, and it gets no
//! new flows.

use llb_common::address::Mac;
use llb_common::backend::{BackendEntry, BackendId, DRAINING};
use llb_common::conntrack::{ACK, FIN, SYN};
use llb_common::frontend::{TCP, UDP};
use llb_common::maps;
use llb_common::reason::Reason;

use super::everywhere;
use crate::frames::Frame;
use crate::plane::{DSR_PORT, NAT_PORT, Plane};

/// What the agent does to the entry.
fn lose(backend: &mut BackendEntry) {
    (backend.state, backend.mac) = (DRAINING, Mac::default());
}

/// The client's packets from another port, which belong to no flow.
fn of_another(plane: &Plane, port: u16, protocol: u8, flags: u8) -> Vec<u8> {
    Frame { from: (plane.client(), 5998), ..plane.to_vip(port, protocol, flags) }.bytes()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_waits_for_a_lost_backend() {
    everywhere(|plane| {
        plane.handshake();
        plane.backend(1, lose);
        for flags in [ACK, FIN | ACK] {
            let known = plane.to_vip(NAT_PORT, TCP, flags).bytes();
            plane.expect_reason("known", &known, Reason::NoNeighbour);
        }
        // What the backend sends may still come.
        plane.expect("reply", &plane.reply_sent(ACK).bytes(), &plane.reply_received(ACK).bytes());
        // The kernel would reset both.
        plane.expect_reason("opens", &of_another(plane, NAT_PORT, TCP, SYN), Reason::NoLiveBackend);
        plane.expect_reason("unknown", &of_another(plane, NAT_PORT, TCP, ACK), Reason::NoNeighbour);
        plane.backend(1, |_| ());
        plane.expect("back", &plane.to_vip(NAT_PORT, TCP, ACK).bytes(), &plane.to_backend(ACK).bytes());
        assert_eq!(plane.entries::<24, 24>(maps::FLOWS.name).len(), 1);
        assert_eq!(plane.entries::<24, 40>(maps::REPLIES.name).len(), 1);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_udp_flow_waits_for_a_lost_backend() {
    everywhere(|plane| {
        let udp = |frame: Frame| Frame { protocol: UDP, ..frame }.bytes();
        plane.backend(1, |backend| backend.protocol = UDP);
        let (sent, got) = (plane.to_vip(NAT_PORT, UDP, 0).bytes(), udp(plane.to_backend(0)));
        plane.expect("request", &sent, &got);
        plane.expect("answer", &udp(plane.reply_sent(0)), &udp(plane.reply_received(0)));
        plane.backend(1, |backend| {
            backend.protocol = UDP;
            lose(backend);
        });
        plane.expect_reason("known", &sent, Reason::NoNeighbour);
        plane.expect_reason("new", &of_another(plane, NAT_PORT, UDP, 0), Reason::NoLiveBackend);
        plane.backend(1, |backend| backend.protocol = UDP);
        plane.expect("back", &sent, &got);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connection_in_mode_dsr_waits_too() {
    everywhere(|plane| {
        let sent = |flags| plane.to_vip(DSR_PORT, TCP, flags);
        for flags in [SYN, ACK] {
            plane.expect("known", &sent(flags).bytes(), &plane.at_node(&sent(flags)).bytes());
        }
        let [known, at_node] = [sent(ACK).bytes(), plane.at_node(&sent(ACK)).bytes()];
        plane.backend(2, lose);
        plane.expect_reason("known", &known, Reason::NoNeighbour);
        plane.expect_reason("opens", &of_another(plane, DSR_PORT, TCP, SYN), Reason::NoLiveBackend);
        plane.backend(2, |_| ());
        plane.expect("back", &known, &at_node);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn new_flows_avoid_a_lost_backend_and_its_own_flows_stay() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let from = |plane: &Plane, port, flags| Frame {
            from: (plane.client(), port),
            ..plane.to_vip(NAT_PORT, TCP, flags)
        };
        let hosts: Vec<_> = (1024..1044).map(|port| plane.host(&from(plane, port, SYN))).collect();
        let host_of = |port: u16| hosts[usize::from(port - 1024)];
        // The backends of the first host, for both frontends.
        for index in [1, 2] {
            let (id, address) = (BackendId::new(index, 1), plane.address(21));
            plane.backend(index, |backend| {
                (backend.id, backend.address) = (id, address);
                lose(backend);
            });
        }
        for port in 1024..1044 {
            let known = from(plane, port, ACK);
            if host_of(port) == 0 {
                plane.expect_reason("its own", &known.bytes(), Reason::NoNeighbour);
            } else {
                assert_eq!(plane.host(&known), 1, "another's");
            }
            assert_eq!(plane.host(&from(plane, port + 1000, SYN)), 1, "new");
        }
        plane.two_hosts(0);
        assert!((1024..1044).all(|port| plane.host(&from(plane, port, ACK)) == host_of(port)));
    });
}
