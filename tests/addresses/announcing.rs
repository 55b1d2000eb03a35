// SPDX-License-Identifier: Apache-2.0
//! What a neighbour hears about a new VIP.

#![expect(clippy::disallowed_methods, reason = "tests wait and measure by the real clock")]

use std::time::Duration;

use llb_agent::addresses::AddressTable;
use tokio::time::Instant;

use super::segment::{NEIGHBOUR, Segment, VIPS, ip, key, mac};
use super::table::{add, kernel_table};

const ARP: [u8; 2] = [0x08, 0x06];
const ICMPV6_NEIGHBOR_SOLICITATION: u8 = 135;
const ICMPV6_NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// Whether a frame announces `vip`, decided by its addresses only.
pub(crate) fn announces(frame: &[u8], vip: &str) -> bool {
    match key(vip).address {
        std::net::IpAddr::V4(vip) => {
            frame[12..14] == ARP && frame.len() >= 42 && frame[28..32] == vip.octets()
        }
        std::net::IpAddr::V6(vip) => {
            frame.len() >= 86 && frame[54] == ICMPV6_NEIGHBOR_ADVERTISEMENT && frame[62..78] == vip.octets()
        }
    }
}

/// Whether a frame probes for `vip`: its sender address is empty.
pub(crate) fn probes(frame: &[u8], vip: &str) -> bool {
    match key(vip).address {
        std::net::IpAddr::V4(vip) => {
            frame[12..14] == ARP
                && frame.len() >= 42
                && frame[28..32] == [0; 4]
                && frame[38..42] == vip.octets()
        }
        std::net::IpAddr::V6(vip) => {
            frame.len() >= 78
                && frame[54] == ICMPV6_NEIGHBOR_SOLICITATION
                && frame[22..38] == [0; 16]
                && frame[62..78] == vip.octets()
        }
    }
}

fn host_mac() -> Vec<u8> {
    mac("vip0").split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_new_vip_is_announced_three_times() {
    Segment::run(async |segment| {
        let capture = segment.capture();
        let mut table = kernel_table();
        let mac = host_mac();
        for (vip, length) in VIPS {
            let start = Instant::now();
            add(&mut table, &key(vip), length).await.unwrap();
            let mut frames = vec![];
            let mut seconds = vec![];
            for _ in 0..3 {
                frames.push(capture.next(|frame| announces(frame, vip)).await);
                seconds.push(start.elapsed().as_secs());
            }
            assert_eq!(seconds, [0, 1, 3]);
            let frame = &frames[0];
            assert_eq!(frames, [frame.clone(), frame.clone(), frame.clone()]);
            assert_eq!(frame[6..12], mac);
            if key(vip).address.is_ipv4() {
                assert_eq!(frame[..6], [0xff; 6]);
                assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1], "an ARP request");
                assert_eq!(frame[22..28], mac, "sender");
                assert_eq!(frame[38..42], [192, 0, 2, 5], "target");
            } else {
                assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
                assert_eq!(frame[21], 255, "hop limit");
                assert_eq!(frame[58..62], [0x20, 0, 0, 0], "the override flag");
                assert_eq!(frame[78..80], [2, 1], "target link-layer address");
                assert_eq!(frame[80..86], mac);
            }
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_neighbour_learns_the_new_mac_of_a_vip() {
    Segment::run(async |segment| {
        let mac = host_mac().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        let mut table = kernel_table();
        for (vip, length) in VIPS {
            segment.at_neighbour(|| {
                ip(&format!("neigh add {vip} lladdr 02:00:00:00:00:01 dev peer0 nud stale"));
            });
            let capture = segment.capture();
            add(&mut table, &key(vip), length).await.unwrap();
            capture.next(|frame| announces(frame, vip)).await;
            let learnt =
                || segment.at_neighbour(|| ip(&format!("neigh show {vip} dev peer0"))).contains(&mac);
            // If the kernel has not processed the first announcement yet, wait for the second one.
            while !learnt() {
                capture.next(|frame| announces(frame, vip)).await;
            }
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_default_gateway_gets_a_request_in_the_vips_name() {
    Segment::run(async |segment| {
        let gateway_mac = segment.at_neighbour(|| mac("peer0"));
        let capture = segment.capture();
        for ((vip, length), gateway) in VIPS.into_iter().zip(NEIGHBOUR) {
            let gateway: ipnet::IpNet = gateway.parse().unwrap();
            let gateway = gateway.addr();
            ip(&format!("route add default via {gateway} dev vip0"));
            ip(&format!("neigh replace {gateway} lladdr {gateway_mac} dev vip0 nud reachable"));
            let mut table = kernel_table();
            add(&mut table, &key(vip), length).await.unwrap();
            let asks = |frame: &[u8]| match (key(vip).address, gateway) {
                (std::net::IpAddr::V4(vip), std::net::IpAddr::V4(gateway)) => {
                    frame[12..14] == ARP && frame[28..32] == vip.octets() && frame[38..42] == gateway.octets()
                }
                (std::net::IpAddr::V6(vip), std::net::IpAddr::V6(gateway)) => {
                    frame.len() >= 86
                        && frame[54] == ICMPV6_NEIGHBOR_SOLICITATION
                        && frame[22..38] == vip.octets()
                        && frame[62..78] == gateway.octets()
                }
                _ => false,
            };
            let frame = capture.next(asks).await;
            let to: Vec<String> = frame[..6].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(to.join(":"), gateway_mac, "by unicast");
            let own = host_mac().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
            let knows = || segment.at_neighbour(|| ip(&format!("neigh show {vip} dev peer0"))).contains(&own);
            while !knows() {
                capture.next(asks).await;
            }
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_removed_vip_is_no_longer_announced() {
    Segment::run(async |segment| {
        let capture = segment.capture();
        let mut table = kernel_table();
        for (vip, length) in VIPS {
            add(&mut table, &key(vip), length).await.unwrap();
            capture.next(|frame| announces(frame, vip)).await;
            table.remove(&key(vip), length).await.unwrap();
            let again = capture.next(|frame| announces(frame, vip));
            assert!(tokio::time::timeout(Duration::from_millis(1500), again).await.is_err());
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_address_that_was_there_before_is_not_announced() {
    Segment::run(async |segment| {
        let (vip, length) = VIPS[0];
        ip(&format!("addr add {vip}/{length} dev vip0"));
        let capture = segment.capture();
        add(&mut kernel_table(), &key(vip), length).await.unwrap();
        let heard = capture.next(|frame| announces(frame, vip));
        assert!(tokio::time::timeout(Duration::from_millis(500), heard).await.is_err());
    });
}
