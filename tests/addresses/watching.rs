// SPDX-License-Identifier: Apache-2.0
//! Links and addresses that others change while VIPs are on them.

use llb_agent::addresses::{Addition, AddressTable, NetlinkAddresses};

use super::announcing::{announces, probes};
use super::conflicts::observing;
use super::segment::{Capture, LINK, Segment, VIPS, ip, key, shown};
use super::table::{add, kernel_table};

async fn with_vips() -> NetlinkAddresses {
    let mut table = kernel_table();
    for (vip, length) in VIPS {
        add(&mut table, &key(vip), length).await.unwrap();
    }
    table.observe().await.unwrap();
    table
}

/// Adds the VIPs again, as the reconciler does when they are gone.
async fn put_back(table: &mut NetlinkAddresses) {
    for (vip, length) in VIPS {
        add(table, &key(vip), length).await.unwrap();
    }
}

/// Waits until every VIP was probed for and then announced. Only the probes tell this announcement from the one
/// of its first addition.
async fn heard_anew(capture: &Capture, table: &mut NetlinkAddresses) {
    let mut probed = [false; 2];
    let mut announced = [false; 2];
    while announced != [true; 2] {
        let frame = observing(table, capture.next(|_| true)).await;
        for (number, (vip, _)) in VIPS.iter().enumerate() {
            probed[number] |= probes(&frame, vip);
            announced[number] |= probed[number] && announces(&frame, vip);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flushed_vip_is_put_back_at_once_and_announced() {
    Segment::run(async |segment| {
        let mut table = with_vips().await;
        for (vip, length) in VIPS {
            ip(&format!("addr flush dev {LINK} to {vip}"));
            assert_eq!(shown(vip), None);
            let capture = segment.capture();
            table.observe().await.unwrap();
            assert_eq!(table.add(&key(vip), length).await.unwrap(), Addition::Done, "no probe");
            assert!(shown(vip).is_some());
            capture.next(|frame| announces(frame, vip)).await;
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn vips_are_announced_again_when_the_link_is_up_again() {
    Segment::run(async |segment| {
        let mut table = with_vips().await;
        ip(&format!("link set {LINK} down"));
        table.observe().await.unwrap();
        put_back(&mut table).await;
        assert!(VIPS.iter().all(|(vip, _)| shown(vip).is_some()), "on a link that is down");
        let capture = segment.capture();
        ip(&format!("link set {LINK} up"));
        heard_anew(&capture, &mut table).await;
        assert!(VIPS.iter().all(|(vip, _)| shown(vip).is_some()));

        // Only the carrier is lost, as if a cable was unplugged.
        segment.at_neighbour(|| ip("link set peer0 down"));
        table.observe().await.unwrap();
        let capture = segment.capture();
        segment.at_neighbour(|| ip("link set peer0 up"));
        heard_anew(&capture, &mut table).await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn vips_are_announced_again_from_another_mac() {
    Segment::run(async |segment| {
        let mut table = with_vips().await;
        let capture = segment.capture();
        ip(&format!("link set {LINK} address 02:00:00:00:00:77"));
        heard_anew(&capture, &mut table).await;
        let frame = observing(&mut table, capture.next(|frame| announces(frame, VIPS[0].0))).await;
        assert_eq!(frame[22..28], [2, 0, 0, 0, 0, 0x77]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_that_is_renamed_and_back_has_its_vips_again() {
    Segment::run(async |segment| {
        let mut table = with_vips().await;
        ip(&format!("link set {LINK} down"));
        ip(&format!("link set {LINK} name away0"));
        assert!(table.observe().await.unwrap().is_empty());
        let capture = segment.capture();
        ip(&format!("link set away0 name {LINK}"));
        ip(&format!("link set {LINK} up"));
        put_back(&mut table).await;
        let links = table.observe().await.unwrap();
        let ours = links[0].addresses.iter().filter(|known| known.ours);
        assert_eq!(ours.count(), VIPS.len());
        // The kernel put the IPv4 address back by itself; llb put back the IPv6 one.
        let (vip, _) = VIPS[0];
        observing(&mut table, capture.next(|frame| probes(frame, vip))).await;
        observing(&mut table, capture.next(|frame| announces(frame, vip))).await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_unplugged_link_gets_its_vips_back() {
    Segment::run(async |segment| {
        let mut table = with_vips().await;
        ip(&format!("link set {LINK} down"));
        table.observe().await.unwrap();
        segment.unplug_and_back();
        assert_eq!(shown(VIPS[0].0), None);
        let capture = segment.capture();
        put_back(&mut table).await;
        for (vip, _) in VIPS {
            assert!(shown(vip).is_some());
            observing(&mut table, capture.next(|frame| announces(frame, vip))).await;
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn vips_are_announced_again_when_the_subnet_changes() {
    Segment::run(async |segment| {
        let mut table = with_vips().await;
        let capture = segment.capture();
        ip(&format!("addr add 198.51.100.9/24 dev {LINK}"));
        heard_anew(&capture, &mut table).await;
    });
}
