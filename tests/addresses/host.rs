// SPDX-License-Identifier: Apache-2.0
//! What the machine needs, read from the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use llb_agent::addresses::AddressTable;
use llb_agent::model::ReservedFor;

use super::segment::{LINK, Segment, ip};
use super::table::kernel_table;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn gateways_of_all_routes_and_peers_are_known() {
    Segment::run(async |_| {
        for command in [
            "route add default via 192.0.2.71 dev vip0",
            "route add 203.0.113.0/25 via 192.0.2.72 dev vip0",
            "route add 203.0.113.0/24 via 192.0.2.73 dev vip0 table 1007",
            "route add 198.51.100.0/24 nexthop via 192.0.2.74 dev vip0 nexthop via 192.0.2.75 dev vip0 weight 2",
            "nexthop add id 7 via 192.0.2.76 dev vip0",
            "route add 198.18.0.0/16 nhid 7",
            "route add 198.19.0.0/16 via inet6 2001:db8::71 dev vip0",
            "-6 route add 2001:db8:7::/48 via 2001:db8::72 dev vip0 table 7",
            "addr add 100.64.0.1 peer 100.64.0.2/32 dev vip0",
            "link add other0 type veth peer name other1",
            "addr add 100.64.1.1 peer 100.64.1.2/32 dev other0",
        ] {
            ip(command);
        }
        let mut table = kernel_table();
        table.observe().await.unwrap();
        let reserved = table.host(BTreeSet::new()).await.unwrap().reserved;
        let gateways = [
            "192.0.2.71",
            "192.0.2.72",
            "192.0.2.73",
            "192.0.2.74",
            "192.0.2.75",
            "192.0.2.76",
            "2001:db8::71",
            "2001:db8::72",
        ];
        let found = |what: &ReservedFor| -> Vec<IpAddr> {
            let all = reserved.iter().filter(|(_, known)| *known == what);
            all.map(|(&address, _)| address).collect()
        };
        let addresses =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(found(&ReservedFor::Gateway), addresses(&gateways));
        assert_eq!(found(&ReservedFor::Peer(LINK.to_owned())), addresses(&["100.64.0.2"]));
        assert_eq!(found(&ReservedFor::Peer("other0".to_owned())), addresses(&["100.64.1.2"]));
        assert_eq!(found(&ReservedFor::Link("other0".to_owned())), addresses(&["100.64.1.1"]));
    });
}
