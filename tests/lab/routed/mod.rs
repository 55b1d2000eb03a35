// SPDX-License-Identifier: Apache-2.0
//! Two boxes whose VIPs are routed, real BIRD and FRR, and clients behind a router with two ways to each VIP. No times are
//! asserted, only printed: the tests share their processors with others.

mod boxes;
mod daemons;

use std::net::TcpStream;
use std::time::Duration;

use llb_tests::client::echo_on;
use llb_tests::{Host, wait_until};

use self::boxes::{BOXES, Boxes, VIP_LINK, VIPS, vips_on};
use crate::group::boxes::HTTP;
use crate::group::gap::Probe;
use crate::plane::Plane;
use crate::setup::{LIMIT, Setup, is_free_of_problems};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn at_tc_connections_in_mode_dsr_outlive_a_box_that_is_cut_off() {
    clients_reach_vips_by_both_boxes_until_one_is_cut_off(Plane::Tc);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn at_xdp_connections_in_mode_dsr_outlive_a_box_that_is_cut_off() {
    clients_reach_vips_by_both_boxes_until_one_is_cut_off(Plane::XdpGeneric);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn relayed_vips_answer_by_both_boxes_until_one_is_cut_off() {
    clients_reach_vips_by_both_boxes_until_one_is_cut_off(Plane::Userspace);
}

/// Both families. With the packet plane no open connection breaks; a relayed one ends with its box.
fn clients_reach_vips_by_both_boxes_until_one_is_cut_off(plane: Plane) {
    let boxes = Boxes::new(plane, &[]);
    boxes.assert_all_answer();
    let mut open = boxes.open_connections();
    let probes: Vec<Probe> =
        VIPS.iter().flat_map(|vip| (0..4).map(|_| Probe::start(&boxes.client, *vip))).collect();

    boxes.lab.segment_ip(&format!("link set {} nomaster\n", BOXES[1])).unwrap();
    boxes.wait_for_ways(&BOXES[..1]);
    probes.iter().for_each(|probe| probe.wait_for_more(20));
    let mut gaps: Vec<Duration> = probes.into_iter().map(Probe::stop).collect();
    gaps.sort();
    println!("{plane:?}: cut off, longest time without an answer of each of 8 flows: {gaps:?}");
    boxes.assert_all_answer();
    if !matches!(plane, Plane::Userspace) {
        open.iter_mut().for_each(|stream| assert_lives(&boxes, stream));
    }

    boxes.lab.segment_ip(&format!("link set {} master {}\n", BOXES[1], llb_tests::lab::BRIDGE)).unwrap();
    boxes.wait_for_ways(&BOXES);
    boxes.assert_all_answer();
    for agent in boxes.agents.iter().flatten() {
        agent.wait_for_state(LIMIT, "no problems", is_free_of_problems).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn vips_are_withdrawn_without_carrier_and_when_the_agent_ends_for_good() {
    let mut boxes = Boxes::new(Plane::Tc, &["--at-stop", "remove", "--drain-timeout", "2s"]);
    let mut open = boxes.open_connections();
    boxes.hosts[0].unplug().unwrap();
    wait_until(LIMIT, "box-a to withdraw its VIPs", || {
        Ok((vips_on(&boxes.hosts[0]) == Some(Vec::new())).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", boxes.logs()));
    let told = boxes.agent(0).wait_for_problem(LIMIT, "NotRoutable").unwrap();
    assert!(told.contains("link eth0 is missing or has no carrier"), "{told}");
    let text = boxes.agent(0).get("/explain/default/web").unwrap();
    assert!(text.contains("VIP 203.0.113.5 (not on llb0 now, so routers send no clients here)"), "{text}");
    boxes.wait_for_ways(&BOXES[1..]);
    open.iter_mut().for_each(|stream| assert_lives(&boxes, stream));

    boxes.hosts[0].plug_in().unwrap();
    boxes.wait_for_ways(&BOXES);
    assert_eq!(vips_on(&boxes.hosts[0]), Some(VIPS.to_vec()));
    boxes.agent(0).wait_for_state(LIMIT, "no problems", is_free_of_problems).unwrap();

    // Routers are told before anything ends.
    let probes: Vec<Probe> =
        VIPS.iter().flat_map(|vip| (0..4).map(|_| Probe::start(&boxes.client, *vip))).collect();
    boxes.agent(1).terminate().unwrap();
    boxes.wait_for_ways(&BOXES[..1]);
    open.iter_mut().for_each(|stream| assert_lives(&boxes, stream));
    drop(open);
    assert!(boxes.agent(1).wait_exit().unwrap().success());
    probes.iter().for_each(|probe| probe.wait_for_more(20));
    let gaps: Vec<Duration> = probes.into_iter().map(Probe::stop).collect();
    println!("stopped, longest time without an answer of each of 8 flows: {gaps:?}");
    assert_eq!(vips_on(&boxes.hosts[1]), None, "llb has made the link, and removes it");
    boxes.assert_all_answer();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_that_dies_and_is_started_again_moves_nothing() {
    let mut boxes = Boxes::new(Plane::Tc, &[]);
    let mut open = boxes.open_connections();
    let mut command = boxes.router.command("ip");
    command.args(["monitor", "route"]);
    let monitor = boxes.router.spawn(command, "routes").unwrap();
    let probes: Vec<Probe> =
        VIPS.iter().flat_map(|vip| (0..4).map(|_| Probe::start(&boxes.client, *vip))).collect();
    for number in 0..BOXES.len() {
        boxes.agents[number].take().unwrap().kill9().unwrap();
        open.iter_mut().for_each(|stream| assert_lives(&boxes, stream));
        boxes.start_agent(number);
        boxes.agent(number).wait_for_state(LIMIT, "no problems", is_free_of_problems).unwrap();
        open.iter_mut().for_each(|stream| assert_lives(&boxes, stream));
    }
    probes.iter().for_each(|probe| probe.wait_for_more(20));
    let gaps: Vec<Duration> = probes.into_iter().map(Probe::stop).collect();
    println!("agents killed and started again, longest time without an answer of each of 8 flows: {gaps:?}");
    let moved = monitor.log();
    let moves: Vec<&str> =
        moved.lines().filter(|line| line.contains("203.0.113.") || line.contains("2001:db8:2:")).collect();
    assert_eq!(moves, [""; 0], "routes to VIPs that have changed");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_link_of_vips_comes_back_and_vips_of_a_subnet_are_refused() {
    let flags = ["--announce", "routed", "--pool", "203.0.113.0/28,2001:db8:2::/124,192.0.2.96/28"];
    let mut setup = Setup::with_arguments(Plane::Userspace, &flags);
    let host = setup.lab.balancer().clone();
    let has_vips = |host: &Host| Ok((vips_on(host) == Some(VIPS.to_vec())).then_some(()));
    setup.write_service("web", &VIPS, &[HTTP]);
    wait_until(LIMIT, "the VIPs to be there", || has_vips(&host)).unwrap();
    host.ip(&format!("link delete {VIP_LINK}\n")).unwrap();
    wait_until(LIMIT, "the link to be back with its VIPs", || has_vips(&host))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", setup.agent.log()));

    setup.write_service("near", &["192.0.2.100".parse().unwrap()], &[HTTP]);
    let told = setup.agent.wait_for_problem(LIMIT, "NotRoutable").unwrap();
    assert!(
        ["Service default/near", "192.0.2.100", "192.0.2.0/24 of link eth0", "--announce l2"]
            .iter()
            .all(|part| told.contains(part)),
        "{told}"
    );
    assert!(!host.has_address("192.0.2.100".parse().unwrap()).unwrap());

    setup.agent.terminate().unwrap();
    assert!(setup.agent.wait_exit().unwrap().success());
    assert_eq!(vips_on(&host), None, "llb has made the link, and removes it");

    // A link that somebody else has made is used and stays.
    host.ip(&format!("link add {VIP_LINK} up type bridge\naddr add 198.51.100.77/32 dev {VIP_LINK}\n"))
        .unwrap();
    setup.restart_agent();
    wait_until(LIMIT, "the VIPs to be there", || has_vips(&host)).unwrap();
    setup.agent.terminate().unwrap();
    assert!(setup.agent.wait_exit().unwrap().success());
    assert_eq!(vips_on(&host), Some(Vec::new()));
    let left = host.output(&["ip", "address", "show", "dev", VIP_LINK]).unwrap();
    assert!(left.contains("198.51.100.77/32"), "{left}");
}

fn assert_lives(boxes: &Boxes, stream: &mut TcpStream) {
    wait_until(LIMIT, "an echo of an old connection", || echo_on(stream, b"still there").map(Some))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", boxes.logs()));
}
