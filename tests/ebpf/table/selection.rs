// SPDX-License-Identifier: Apache-2.0
//! Rows about the backend that a flow gets.

use llb_common::address::Mac;
use llb_common::backend::{BackendId, DEAD};
use llb_common::conntrack::{ACK, RST, SYN};
use llb_common::frontend::{MaglevTable, TCP, UDP};

use super::everywhere;
use crate::frames::Frame;
use crate::plane::{DSR_PORT, LB_MAC, NAT_PORT, Outcome, Plane, now};

/// MACs of the two hosts.
pub(super) const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];

/// Enough clients that both hosts get some.
const CLIENTS: std::ops::Range<u8> = 50..70;

impl Plane {
    /// Two hosts with a backend for each of the two frontends. They take turns in the slots.
    pub(super) fn two_hosts(&mut self, affinity_secs: u32) {
        for (port, ids) in [(NAT_PORT, [1, 3]), (DSR_PORT, [2, 4])] {
            for (id, (host, mac)) in ids.into_iter().zip((1..).zip(MACS)) {
                let address = self.address(20 + host as u8);
                self.backend(id, |backend| {
                    (backend.host, backend.mac, backend.address) = (host, Mac::new(mac), address);
                });
                self.member(port, host, BackendId::new(id, 1));
            }
            self.chunk(u32::from(port - NAT_PORT) + 1, &ids.map(|id| BackendId::new(id, 1)));
            self.frontend(port, |entry| entry.affinity_secs = affinity_secs);
        }
    }

    /// The host that gets a packet.
    pub(super) fn host(&self, frame: &Frame) -> usize {
        let Outcome::Sent(bytes) = self.run(&frame.bytes()) else { panic!("not sent") };
        assert_eq!(bytes[6..12], LB_MAC);
        MACS.iter().position(|mac| bytes[..6] == *mac).unwrap()
    }

    /// The hosts that get a new flow of each client.
    fn hosts(&self, client_port: u16, port: u16) -> Vec<usize> {
        CLIENTS.map(|client| self.host(&self.of(client, client_port, port, TCP, SYN))).collect()
    }

    /// A packet of one of the clients.
    fn of(&self, client: u8, client_port: u16, port: u16, protocol: u8, flags: u8) -> Frame {
        Frame { from: (self.address(client), client_port), ..self.to_vip(port, protocol, flags) }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn affinity_holds_across_the_ports_of_a_service() {
    everywhere(|plane| {
        plane.two_hosts(100);
        let hosts = plane.hosts(1024, NAT_PORT);
        assert!(hosts.contains(&0) && hosts.contains(&1), "{hosts:?}");
        for (client, host) in CLIENTS.zip(&hosts) {
            for (port, protocol) in [(NAT_PORT, TCP), (DSR_PORT, TCP), (DSR_PORT, UDP)] {
                for client_port in 1025..1030 {
                    let frame = plane.of(client, client_port, port, protocol, SYN);
                    assert_eq!(plane.host(&frame), *host, "{client}:{client_port} to {port}");
                }
            }
        }
        // A client whose host is gone moves, and does not move back when that host returns.
        for id in [1, 2] {
            plane.backend(id, |backend| backend.state = DEAD);
        }
        assert_eq!(plane.hosts(2000, DSR_PORT), [1; 20]);
        plane.two_hosts(100);
        assert_eq!(plane.hosts(2001, NAT_PORT), [1; 20]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_affinity_each_flow_is_selected_on_its_own() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let hosts: Vec<_> =
            (1024..1064).map(|port| plane.host(&plane.of(10, port, NAT_PORT, TCP, SYN))).collect();
        assert!(hosts.contains(&0) && hosts.contains(&1), "{hosts:?}");
        let again: Vec<_> =
            (1024..1064).map(|port| plane.host(&plane.of(10, port, NAT_PORT, TCP, ACK))).collect();
        assert_eq!(hosts, again);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_reset_of_an_unknown_flow_sets_no_affinity() {
    everywhere(|plane| {
        plane.two_hosts(100);
        plane.host(&plane.of(10, 1024, DSR_PORT, TCP, RST));
        assert!(plane.entries::<24, 8>(llb_common::maps::AFFINITY.name).is_empty());
        plane.host(&plane.of(10, 1024, DSR_PORT, TCP, SYN));
        assert_eq!(plane.entries::<24, 8>(llb_common::maps::AFFINITY.name).len(), 1);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_that_open_nothing_go_by_the_previous_table_for_a_while() {
    everywhere(|plane| {
        plane.two_hosts(0);
        let slots = 1021;
        plane.chunk(10, &[BackendId::new(3, 1)]);
        plane.chunk(11, &[BackendId::new(1, 1)]);
        let replaced = |plane: &mut Plane, changed| {
            plane.frontend(NAT_PORT, |entry| {
                entry.table = MaglevTable { first_chunk: 10, slots };
                entry.previous = MaglevTable { first_chunk: 11, slots };
                entry.changed = changed;
            });
        };
        replaced(plane, now());
        let mut port = 2000;
        let mut new = |plane: &Plane, protocol, flags| {
            port += 1;
            plane.host(&plane.of(10, port, NAT_PORT, protocol, flags))
        };
        assert_eq!([new(plane, TCP, ACK), new(plane, TCP, SYN | ACK), new(plane, TCP, SYN)], [0, 0, 1]);
        assert_eq!(new(plane, UDP, 0), 1, "nothing tells which UDP packet opens a flow");
        // When these backends are gone, the present table decides.
        plane.backend(1, |backend| backend.state = DEAD);
        assert_eq!(new(plane, TCP, ACK), 1);
        plane.two_hosts(0);
        plane.chunk(10, &[BackendId::new(3, 1)]);
        replaced(plane, 0);
        assert_eq!(new(plane, TCP, ACK), 1, "long ago");
    });
}
