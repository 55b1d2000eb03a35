// SPDX-License-Identifier: Apache-2.0
//! Rows about sources that no other host can have.

use std::net::IpAddr;

use llb_common::address::Address;
use llb_common::conntrack::{ACK, RST, SYN};
use llb_common::frontend::{TCP, UDP};
use llb_common::reason::Reason;

use super::everywhere;
use crate::frames::{Frame, icmp_error, ip};
use crate::plane::{CLIENT_MAC, DSR_PORT, Family, LB_MAC, NAT_PORT, Plane};

fn martians(plane: &Plane) -> Vec<Address> {
    let others: &[&str] = match plane.family {
        Family::V4 => {
            &["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "224.0.0.1", "239.1.1.1", "255.255.255.255"]
        }
        Family::V6 => &["::", "::1", "ff02::1", "ff0e::9"],
    };
    let others = others.iter().map(|text| Address::from(text.parse::<IpAddr>().unwrap()));
    [plane.vip(), plane.snat()].into_iter().chain(others).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_from_a_source_that_no_host_has_does_not_begin() {
    everywhere(|plane| {
        for source in martians(plane) {
            for (port, protocol, flags) in [
                (NAT_PORT, TCP, SYN),
                (NAT_PORT, TCP, ACK),
                (NAT_PORT, UDP, 0),
                (DSR_PORT, TCP, SYN),
                (DSR_PORT, UDP, 0),
            ] {
                // From the frontend's own port: the answer to it would be another question.
                let sent = Frame { from: (source, port), ..plane.to_vip(port, protocol, flags) };
                plane.expect_reason("the same port", &sent.bytes(), Reason::Martian);
                let sent = Frame { from: (source, 4000), ..sent };
                plane.expect_reason("another port", &sent.bytes(), Reason::Martian);
            }
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_forwarded_without_a_flow_is_looked_at_too() {
    everywhere(|plane| {
        plane.settings(|settings| settings.flow_budget = 0);
        for source in martians(plane) {
            for flags in [SYN, RST] {
                let sent = Frame { from: (source, 4000), ..plane.to_vip(DSR_PORT, TCP, flags) };
                plane.expect_reason("not remembered", &sent.bytes(), Reason::Martian);
            }
            let about = ip(plane.vip(), plane.client(), TCP, 60, &plane.at_vip(DSR_PORT).transport());
            let error = icmp_error((LB_MAC, CLIENT_MAC), source, plane.vip(), &about);
            plane.expect_reason("error", &error, Reason::Martian);
        }
        assert_eq!(plane.reason(Reason::NotRemembered), 0);
    });
}

impl Plane {
    /// A packet of the VIP to the client.
    fn at_vip(&self, port: u16) -> Frame {
        let sent = self.to_vip(port, TCP, ACK);
        Frame { from: sent.to, to: sent.from, ..sent }
    }
}
