// SPDX-License-Identifier: Apache-2.0
//! Rows about the way back to a client by the routes of the machine. The client's packets come by one link and router;
//! the route to it leads by another link to another router. The links are real, since the kernel is asked.

use std::collections::BTreeMap;
use std::mem::offset_of;

use llb_common::conntrack::{ACK, ForwardEntry, SYN};
use llb_common::frontend::{TCP, UDP};
use llb_common::maps;
use llb_tests::{Host, Lab};

use crate::frames::Frame;
use crate::plane::{CLIENT_MAC, Family, Hook, LB_MAC, LINK, NAT_PORT, Plane, now};

/// The other link with a program, and one without.
const OTHER_LINK: u32 = 8;
const STRANGE_LINK: u32 = 9;
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
/// The router on each link.
const ROUTER_MACS: [(u32, [u8; 6]); 3] =
    [(LINK, [2, 0, 0, 0, 2, 7]), (OTHER_LINK, [2, 0, 0, 0, 2, 8]), (STRANGE_LINK, [2, 0, 0, 0, 2, 9])];
/// The client moves behind another router.
const NEW_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A host with the links, and what `ip` calls the client.
struct Routes<'a> {
    host: &'a Host,
    family: Family,
}

impl Routes<'_> {
    fn client(&self) -> &'static str {
        if self.family == Family::V4 { "192.0.2.10" } else { "2001:db8::a" }
    }

    fn router(&self, link: u32) -> String {
        if self.family == Family::V4 { format!("203.0.113.{link}") } else { format!("2001:db8:{link}::2") }
    }

    fn lead_by(&self, link: u32) {
        let (client, router) = (self.client(), self.router(link));
        self.host.ip(&format!("route replace {client} via {router} dev l{link} onlink\n")).unwrap();
    }

    fn lead_nowhere(&self) {
        self.host.ip(&format!("route del {}\n", self.client())).unwrap();
    }

    fn forget_router(&self, link: u32) {
        self.host.ip(&format!("neigh del {} dev l{link}\n", self.router(link))).unwrap();
    }

    fn know_router(&self, link: u32) {
        let (_, mac) = ROUTER_MACS.into_iter().find(|(other, _)| *other == link).unwrap();
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let router = self.router(link);
        self.host.ip(&format!("neigh replace {router} lladdr {mac} dev l{link} nud permanent\n")).unwrap();
    }
}

/// Makes the links, and runs `check` for both hooks and families.
fn everywhere_with_routes(check: impl Fn(&mut Plane, &Routes<'_>) + Sync) {
    let mut lab = Lab::empty().unwrap();
    let host = lab.add_host("balancer").unwrap();
    for family in ["net.ipv4", "net.ipv6"] {
        host.output(&["sysctl", "-q", "-w", &format!("{family}.conf.lo.forwarding=1")]).unwrap();
    }
    for (link, _) in ROUTER_MACS {
        let up = format!(
            "link add l{link} index {link} type veth peer name p{link}\nlink set l{link} up\nlink set p{link} up\n"
        );
        let addresses = format!("addr add 203.0.113.1{link}/32 dev l{link}\n");
        let v6 = format!("addr add 2001:db8:{link}::1/64 dev l{link} nodad\n");
        host.ip(&[up, addresses, v6].concat()).unwrap();
    }
    for hook in [Hook::Xdp, Hook::Tc] {
        for family in [Family::V4, Family::V6] {
            println!("{hook:?} {family:?}");
            let routes = Routes { host: &host, family };
            ROUTER_MACS.iter().for_each(|(link, _)| routes.know_router(*link));
            routes.lead_by(OTHER_LINK);
            let run = || {
                let mut plane = Plane::new(hook, family);
                plane.know_link(LINK, LB_MAC);
                plane.know_link(OTHER_LINK, OTHER_MAC);
                check(&mut plane, &routes);
            };
            host.run_inside(run).unwrap();
            routes.lead_nowhere();
        }
    }
}

impl Plane {
    fn choose_routes(&mut self, chooses: bool) {
        self.returns_by_routes = chooses;
        self.arrive_by(LINK, LB_MAC);
    }

    /// A reply goes out with these MACs.
    fn returns_to(&self, name: &str, macs: ([u8; 6], [u8; 6])) {
        let received = Frame { macs, ..self.reply_received(ACK) };
        self.expect(name, &self.reply_sent(ACK).bytes(), &received.bytes());
    }

    fn returns_by(&self, name: &str, link: u32) {
        let (_, router) = ROUTER_MACS.into_iter().find(|(other, _)| *other == link).unwrap();
        self.returns_to(name, (router, if link == LINK { LB_MAC } else { OTHER_MAC }));
    }

    /// The client's next packet comes in another tick than the last one, from this MAC.
    fn next_tick(&mut self, mac: [u8; 6]) {
        let old = now() - 2;
        let times: BTreeMap<_, _> =
            self.entries::<24, 24>(maps::FLOWS.name).iter().map(|(key, _)| (key.to_vec(), old)).collect();
        self.program.patch_placed(maps::FLOWS.name, offset_of!(ForwardEntry, used), &times);
        let sent = Frame { macs: (LB_MAC, mac), ..self.to_vip(NAT_PORT, TCP, ACK) };
        self.expect("in another tick", &sent.bytes(), &self.to_backend(ACK).bytes());
    }

    fn open_by(&self, link: u32) {
        let (_, router) = ROUTER_MACS.into_iter().find(|(other, _)| *other == link).unwrap();
        let macs = (router, if link == LINK { LB_MAC } else { OTHER_MAC });
        self.expect("SYN", &self.to_vip(NAT_PORT, TCP, SYN).bytes(), &self.to_backend(SYN).bytes());
        let received = Frame { macs, ..self.reply_received(SYN | ACK) };
        self.expect("SYN-ACK", &self.reply_sent(SYN | ACK).bytes(), &received.bytes());
        self.expect("ACK", &self.to_vip(NAT_PORT, TCP, ACK).bytes(), &self.to_backend(ACK).bytes());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn replies_go_where_the_packets_come_from_unless_the_routes_are_chosen() {
    everywhere_with_routes(|plane, _| {
        plane.handshake();
        plane.returns_to("by default", (CLIENT_MAC, LB_MAC));
        plane.choose_routes(true);
        plane.next_tick(CLIENT_MAC);
        plane.returns_by("chosen for a known flow", OTHER_LINK);
        plane.choose_routes(false);
        plane.next_tick(CLIENT_MAC);
        plane.returns_to("taken back", (CLIENT_MAC, LB_MAC));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_route_that_moves_takes_the_replies_with_it() {
    everywhere_with_routes(|plane, routes| {
        plane.choose_routes(true);
        plane.open_by(OTHER_LINK);
        routes.lead_by(LINK);
        plane.next_tick(CLIENT_MAC);
        plane.returns_by("moved", LINK);
        // Where the client's packets come from does not matter.
        plane.next_tick(NEW_MAC);
        plane.returns_by("the client has moved", LINK);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_a_whole_way_replies_keep_theirs_until_the_packets_come_by_another() {
    everywhere_with_routes(|plane, routes| {
        plane.choose_routes(true);
        plane.open_by(OTHER_LINK);
        let losses: [(&str, &dyn Fn()); 3] = [
            ("no neighbour", &|| routes.forget_router(OTHER_LINK)),
            ("a link without a program", &|| routes.lead_by(STRANGE_LINK)),
            ("no route", &|| routes.lead_nowhere()),
        ];
        for (name, lose) in losses {
            lose();
            plane.next_tick(CLIENT_MAC);
            plane.returns_by(name, OTHER_LINK);
            plane.next_tick(NEW_MAC);
            plane.returns_to(name, (NEW_MAC, LB_MAC));
            routes.know_router(OTHER_LINK);
            routes.lead_by(OTHER_LINK);
            plane.next_tick(CLIENT_MAC);
            plane.returns_by("back", OTHER_LINK);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flow_that_begins_without_a_whole_way_is_answered_where_it_came_from() {
    everywhere_with_routes(|plane, routes| {
        plane.choose_routes(true);
        routes.forget_router(OTHER_LINK);
        plane.handshake();
        plane.next_tick(NEW_MAC);
        plane.returns_to("the client has moved", (NEW_MAC, LB_MAC));
        routes.know_router(OTHER_LINK);
        plane.next_tick(NEW_MAC);
        plane.returns_by("resolved", OTHER_LINK);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn rules_for_the_source_address_and_udp_count_too() {
    everywhere_with_routes(|plane, routes| {
        let (flag, vip) =
            if routes.family == Family::V4 { ("-4", "192.0.2.1") } else { ("-6", "2001:db8::1") };
        let (client, router) = (routes.client(), routes.router(LINK));
        let other = format!("route replace {client} via {router} dev l{LINK} onlink table 100\n");
        routes.host.ip(&other).unwrap();
        let rule =
            |word| routes.host.output(&["ip", flag, "rule", word, "from", vip, "lookup", "100"]).unwrap();
        rule("add");
        plane.backend(1, |backend| backend.protocol = UDP);
        plane.choose_routes(true);
        let udp = |frame: Frame| Frame { protocol: UDP, ..frame }.bytes();
        plane.expect("question", &plane.to_vip(NAT_PORT, UDP, 0).bytes(), &udp(plane.to_backend(0)));
        let (_, mac) = ROUTER_MACS[0];
        let received = Frame { macs: (mac, LB_MAC), ..plane.reply_received(0) };
        plane.expect("answer", &udp(plane.reply_sent(0)), &udp(received));
        rule("del");
    });
}
