// SPDX-License-Identifier: Apache-2.0
//! Planned moves: a box is drained and gets its shares back, a share is moved to another box, a whole box dies and comes back.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use llb_agent::ownership::Ranks;
use llb_tests::client::connect;
use llb_tests::environment::failovers;
use llb_tests::{Steady, wait_until};

use super::boxes::{BOXES, ECHO, Group, HTTP, UDP};
use super::figures::Figures;
use super::gap::Probe;
use super::macs::MacWatch;
use super::{assert_nothing_moves, members, serve_dsr, wait_for_clients_at};
use crate::plane::Plane;
use crate::setup::LIMIT;

/// Each VIP has so many connections.
const CONNECTIONS: usize = 10;
/// The boxes' logs are printed with a gap that is longer.
const REMARKABLE: Duration = Duration::from_millis(300);
/// Drains of a run that measures, for each cut.
const OF_CUTS: u64 = 5;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_box_that_drains_and_comes_back_loses_no_dsr_connection() {
    let mut group = Group::new(Plane::Tc, &[]);
    let vips = group.vips();
    let _servers = serve_dsr(&group, &vips);
    group.serve(&[ECHO, HTTP, UDP], "llb.dev/mode: dsr");
    group.assert_all_answer();
    (0..2).for_each(|number| wait_for_clients_at(&group, number));
    let moving = group.vips_at(1);
    assert!(moving.iter().any(IpAddr::is_ipv4) && moving.iter().any(IpAddr::is_ipv6), "{moving:?}");
    let addresses = vips.iter().flat_map(|vip| std::iter::repeat_n(*vip, CONNECTIONS));
    let streams = addresses.map(|vip| connect(&group.client, SocketAddr::new(vip, ECHO.port)).unwrap());
    let steady = Steady::start(streams.collect());

    let mut figures = Figures::default();
    for _ in 0..failovers().map_or(1, |cuts| cuts.div_ceil(OF_CUTS)) {
        planned(&group, &moving, &mut figures, ["drain", "--wait"].as_slice(), "drained", &[]);
        planned(&group, &moving, &mut figures, &["undrain"], "back", &moving);
    }
    // The order outlives the agent, and is shown.
    group.members[1].order(&["drain", "--wait"]).unwrap();
    group.members[1].restart_agent();
    wait_until(LIMIT, "/readyz to say that it is drained", || {
        let text = group.members[1].agent.as_ref().unwrap().get("/readyz")?;
        Ok(text.contains("drained").then_some(()))
    })
    .unwrap();
    assert!(members(&group, 1).contains("\ndrained: "), "{}", members(&group, 1));
    let explained = group.members[1].page("/explain/default/web");
    assert!(explained.contains("this box is drained"), "{explained}");
    assert_eq!(group.members[1].agent.as_ref().unwrap().metric("llb_drained").unwrap(), 1);
    assert_nothing_moves(&group);
    assert_eq!(group.vips_at(1), Vec::<IpAddr>::new());
    group.members[1].order(&["undrain"]).unwrap();
    wait_until(LIMIT, "box-b to have its VIPs again", || Ok((group.vips_at(1) == moving).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));

    steady.wait_for_rounds(1, LIMIT).unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    assert_eq!(steady.stop().unwrap(), Vec::<String>::new(), "{}", group.logs());
    figures.print();
}

/// Orders something at box-b, waits until it has `then` of the VIPs that move and each VIP is at one box, and notes what a
/// client and a neighbour see meanwhile.
fn planned(
    group: &Group,
    moving: &[IpAddr],
    figures: &mut Figures,
    order: &[&str],
    name: &str,
    then: &[IpAddr],
) {
    let probes: Vec<Probe> = moving.iter().map(|vip| Probe::start(&group.client, *vip)).collect();
    let macs = MacWatch::start(&group.lab, moving);
    group.members[1].order(order).unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    wait_until(LIMIT, name, || Ok((group.vips_at(1) == then).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    group.wait_until_each_vip_is_at_one_box();
    probes.iter().for_each(|probe| probe.wait_for_more(20));
    let gaps: Vec<Duration> = probes.into_iter().map(Probe::stop).collect();
    if gaps.iter().any(|gap| *gap > REMARKABLE) {
        println!("{name}: {gaps:?}\n{}", group.logs());
    }
    figures.note(&format!("{name}: gap"), gaps);
    figures.note(&format!("{name}: two MACs"), [macs.stop()]);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_share_is_moved_to_the_other_box_and_back() {
    let mut group = Group::new(Plane::Userspace, &[]);
    group.serve(&[HTTP], "llb.dev/mode: nat");
    let before = [group.members[0].shares(), group.members[1].shares()];
    let share = *before[0].first().unwrap();
    let number = share.to_string();
    let order =
        |number_of_box: usize, to: &str| group.members[number_of_box].order(&["move", &number, to]).unwrap();
    assert!(order(0, "box-b").contains("is to be at box-b: run the same command there"));
    order(1, "box-b");
    let is_at = |owner: usize| {
        wait_until(LIMIT, "the share to move", || {
            let has = |number: usize| group.members[number].shares().contains(&share);
            Ok((has(owner) && !has(1 - owner)).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    };
    is_at(1);
    for number in 0..2 {
        wait_until(LIMIT, "box-b to be named first", || {
            let start = format!("eth0 share {share:2} ");
            let text = members(&group, number);
            let line = text.lines().find(|line| line.starts_with(&start)).unwrap();
            if line.contains("due at box-b, box-a") { Ok(Some(())) } else { anyhow::bail!("{line}") }
        })
        .unwrap();
    }
    group.assert_all_answer();
    let refused = group.members[0].order(&["move", &number, "box-x"]).unwrap_err().to_string();
    assert!(refused.contains("it knows box-a, box-b"), "{refused}");
    (0..2).for_each(|number| drop(order(number, "box-a")));
    is_at(0);
    assert_eq!([group.members[0].shares(), group.members[1].shares()], before);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_shares_of_a_box_without_power_spread_over_the_two_others_and_come_back() {
    let mut group = Group::of(3, Plane::Tc, &[]);
    group.serve(&[HTTP], "llb.dev/mode: nat");
    let due = Ranks::new("edge", &BOXES.map(str::to_owned).into());
    let wait_for = |group: &Group, living: &[usize]| {
        wait_until(LIMIT, "each share to be at the first living box in line", || {
            let owners = living.iter().flat_map(|number| {
                let name = BOXES[*number];
                group.members[*number].shares().into_iter().map(move |share| (share, name))
            });
            let owners: Vec<(u8, &str)> = owners.collect();
            let first = |share: u8| {
                let order = due.order(share).iter().map(String::as_str);
                order.into_iter().find(|name| living.iter().any(|number| BOXES[*number] == *name))
            };
            let expected: BTreeMap<u8, &str> = (0..16).map(|share| (share, first(share).unwrap())).collect();
            let is_so = owners.len() == 16 && owners.iter().copied().collect::<BTreeMap<_, _>>() == expected;
            if is_so { Ok(Some(())) } else { anyhow::bail!("{owners:?}") }
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    };
    wait_for(&group, &[0, 1, 2]);
    group.members[0].power_off();
    wait_for(&group, &[1, 2]);
    group.assert_all_answer();
    let vips = group.vips();
    group.members[0].power_on(&vips);
    wait_for(&group, &[0, 1, 2]);
    group.wait_until_each_vip_is_at_one_box();
    group.assert_all_answer();
}
