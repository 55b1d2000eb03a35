// SPDX-License-Identifier: Apache-2.0
//! Another host that has a VIP already, or claims it.

#![expect(clippy::disallowed_methods, reason = "tests wait and measure by the real clock")]

use std::time::Duration;

use llb_agent::addresses::{Addition, AddressError, AddressTable, NetlinkAddresses};
use llb_tests::wait::{repeat, wait_until_async};
use tokio::time::Instant;

use super::announcing::{announces, probes};
use super::segment::{LIMIT, Segment, VIPS, ip, key, mac, nodad, set_sysctl, shown};
use super::table::{add, kernel_table};

/// Runs `work` while the table observes the links again and again, as the reconciler makes it do.
pub(crate) async fn observing<T>(table: &mut NetlinkAddresses, work: impl Future<Output = T>) -> T {
    let look = repeat(async || drop(table.observe().await.unwrap()));
    tokio::select! {
        result = work => result,
        never = look => never,
    }
}

/// Waits until this number of VIPs are in conflict.
async fn wait_conflicts(table: &mut NetlinkAddresses, count: usize) {
    let in_conflict = wait_until_async(LIMIT, "another number of VIPs in conflict", async || {
        table.observe().await?;
        Ok((table.conflicts().len() == count).then_some(()))
    });
    in_conflict.await.unwrap();
}

/// Adds all VIPs to the neighbour, or deletes them (`verb` of `ip addr`).
fn neighbour_has(segment: &Segment, verb: &str) {
    segment.at_neighbour(|| {
        for (vip, length) in VIPS {
            let nodad = if verb == "add" { nodad(vip) } else { "" };
            ip(&format!("addr {verb} {vip}/{length} dev peer0{nodad}"));
        }
    });
}

/// Gives the neighbour another MAC, which makes it announce all its addresses.
fn neighbour_announces(segment: &Segment, mac: &str) {
    segment.at_neighbour(|| {
        set_sysctl("ipv4/conf/peer0/arp_notify", "1");
        set_sysctl("ipv6/conf/peer0/ndisc_notify", "1");
        ip(&format!("link set peer0 address {mac}"));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_vip_of_a_neighbour_is_refused_with_its_mac_until_it_is_free() {
    Segment::run(async |segment| {
        neighbour_has(segment, "add");
        let mut table = kernel_table();
        let owner = segment.at_neighbour(|| mac("peer0"));
        for (vip, length) in VIPS {
            for _ in 0..2 {
                let error = add(&mut table, &key(vip), length).await.unwrap_err();
                assert!(matches!(error, AddressError::Taken { .. }), "{error:?}");
                assert!(error.to_string().contains(&owner), "{error}, not {owner}");
                assert_eq!(shown(vip), None);
            }
        }
        neighbour_has(segment, "del");
        for (vip, length) in VIPS {
            add(&mut table, &key(vip), length).await.unwrap();
            assert!(shown(vip).is_some());
        }
        assert!(table.conflicts().is_empty());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_free_vip_is_probed_for_three_times_before_it_is_added() {
    Segment::run(async |segment| {
        let capture = segment.capture();
        let mut table = kernel_table();
        table.observe().await.unwrap();
        for (vip, length) in VIPS {
            assert_eq!(table.add(&key(vip), length).await.unwrap(), Addition::Pending);
            for _ in 0..3 {
                capture.next(|frame| probes(frame, vip)).await;
                assert_eq!(shown(vip), None);
            }
            add(&mut table, &key(vip), length).await.unwrap();
            capture.next(|frame| announces(frame, vip)).await;
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_hundred_vips_are_probed_for_at_the_same_time() {
    Segment::run(async |_| {
        let mut table = kernel_table();
        table.observe().await.unwrap();
        let start = Instant::now();
        let mut missing: Vec<_> = (100..200).map(|number| key(&format!("192.0.2.{number}"))).collect();
        let added = wait_until_async(LIMIT, "all VIPs to be added", async || {
            let mut pending = Vec::new();
            for key in missing.drain(..) {
                if table.add(&key, 24).await.unwrap() == Addition::Pending {
                    pending.push(key);
                }
            }
            missing = pending;
            Ok(missing.is_empty().then_some(()))
        });
        added.await.unwrap();
        // One after the other would take 21 s.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_foreign_claim_is_reported_and_defended_until_it_ends() {
    Segment::run(async |segment| {
        let capture = segment.capture();
        let mut table = kernel_table();
        for (vip, length) in VIPS {
            add(&mut table, &key(vip), length).await.unwrap();
        }
        let defences = |frame: &[u8]| {
            VIPS.iter().any(|(vip, _)| announces(frame, vip)) && frame[6..11] != [2, 0, 0, 0, 0]
        };
        // Wait for the whole first series of announcements: one of them could pass for the defence.
        for _ in 0..3 * VIPS.len() {
            capture.next(defences).await;
        }
        neighbour_has(segment, "add");
        neighbour_announces(segment, "02:00:00:00:00:01");
        wait_conflicts(&mut table, 2).await;
        for claimed in table.conflicts().values() {
            assert_eq!(claimed.to_string(), "02:00:00:00:00:01");
        }
        for _ in VIPS {
            observing(&mut table, capture.next(defences)).await;
        }
        neighbour_announces(segment, "02:00:00:00:00:02");
        let again = tokio::time::timeout(Duration::from_secs(2), capture.next(defences));
        assert!(observing(&mut table, again).await.is_err(), "one defence in ten seconds");
        assert!(VIPS.iter().all(|(vip, _)| shown(vip).is_some()), "a VIP is not given up");

        neighbour_has(segment, "del");
        wait_conflicts(&mut table, 0).await;
        for _ in VIPS {
            observing(&mut table, capture.next(defences)).await;
        }
    });
}
