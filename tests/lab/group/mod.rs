// SPDX-License-Identifier: Apache-2.0
//! A group of two or three boxes with keepalived, and clients behind a router. A box is cut off, comes back, or loses its
//! agent. Orders (`drain`, `move`) are in `planned`.
//! No times are asserted, only printed: the tests share their processors with others.

pub(crate) mod boxes;
mod figures;
pub(crate) mod gap;
mod macs;
mod planned;
mod timeline;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use llb_agent::model::share_of;
use llb_tests::client::{connect, echo_on};
use llb_tests::environment::failovers;
use llb_tests::wait::holds_throughout;
use llb_tests::{Host, Server, wait_until};

use self::boxes::{ECHO, Group, HTTP, UDP, wait_for_clients};
use self::figures::Figures;
use self::gap::Probe;
use self::macs::MacWatch;
use self::timeline::Timeline;
use crate::plane::Plane;
use crate::setup::{LIMIT, NODES, is_free_of_problems};

/// The bar of a run that measures.
const LONGEST: Duration = Duration::from_millis(500);
/// The row with it.
const GAP: &str = "cut off: gap";

/// How long nothing may happen.
const A_WHILE: Duration = Duration::from_secs(3);

macro_rules! on_each_plane {
    ($($module:ident: $plane:expr,)*) => {
        $(
            mod $module {
                use super::*;

                #[test]
                #[ignore = "needs root: cargo xtask test"]
                fn the_vips_of_a_box_that_is_cut_off_answer_at_the_other_one() {
                    vips_move_and_come_back($plane);
                }
            }
        )*
    };
}

on_each_plane! {
    userspace: Plane::Userspace,
    sockmap: Plane::Sockmap,
    tc: Plane::Tc,
    xdp_generic: Plane::XdpGeneric,
    xdp_native: Plane::XdpNative,
}

/// Both families. Connections of the box that is cut off are reset by the other one, so that clients connect again.
fn vips_move_and_come_back(plane: Plane) {
    let mut group = Group::new(plane, &[]);
    group.serve(&[HTTP, ECHO, UDP], "llb.dev/mode: nat");
    group.assert_all_answer();
    assert!((0..2).all(|number| !group.vips_at(number).is_empty()), "{}", group.logs());
    let text = members(&group, 0);
    assert!(
        text.starts_with("group edge, this box is box-a: 8 shares here, 8 elsewhere, 8 due here"),
        "{text}"
    );

    let mut figures = Figures::default();
    for _ in 0..failovers().unwrap_or(1) {
        cut_off_and_heal(&group, &mut figures);
    }
    assert_nothing_moves(&group);
    println!("{plane:?}:");
    figures.print();
    if failovers().is_some() {
        let longest = figures.of(GAP).iter().max();
        assert!(longest.is_some_and(|longest| *longest < LONGEST), "{longest:?}");
    }
    for member in &group.members {
        let agent = member.agent.as_ref().unwrap();
        agent.wait_for_state(LIMIT, "no problems", is_free_of_problems).unwrap();
    }
}

/// Notes for how long each VIP that moved did not answer, and what that time was spent for.
fn cut_off_and_heal(group: &Group, figures: &mut Figures) {
    let moving = group.vips_at(1);
    assert!(moving.iter().any(IpAddr::is_ipv4) && moving.iter().any(IpAddr::is_ipv6), "{moving:?}");
    let probes: Vec<Probe> = moving.iter().map(|vip| Probe::start(&group.client, *vip)).collect();
    let mut open: Vec<TcpStream> = moving.iter().map(|vip| connect_echo(&group.client, *vip)).collect();
    let timeline = Timeline::start(&group.members[0].host);
    group.cut_off(1);
    wait_until(LIMIT, "all VIPs to be at box-a", || Ok((group.vips_at(0) == group.vips()).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    probes.iter().for_each(|probe| probe.wait_for_more(20));
    figures.note(GAP, probes.into_iter().map(Probe::stop));
    let marker_of = |vip: &IpAddr| IpAddr::from([127, 86, 0, share_of(*vip)]);
    figures.note("cut off: until the marker", moving.iter().filter_map(|vip| timeline.added(marker_of(vip))));
    figures.note("cut off: until the address", moving.iter().filter_map(|vip| timeline.added(*vip)));
    drop(timeline);
    open.iter_mut().for_each(assert_is_reset);
    group.assert_all_answer();

    // Nobody hears box-b, so it has kept its VIPs. When it is heard again, each VIP is at one box, and stays there.
    let probes: Vec<Probe> = moving.iter().map(|vip| Probe::start(&group.client, *vip)).collect();
    let macs = MacWatch::start(&group.lab, &moving);
    group.heal(1);
    group.wait_until_each_vip_is_at_one_box();
    wait_until(LIMIT, "box-b to have its VIPs again", || Ok((group.vips_at(1) == moving).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    probes.iter().for_each(|probe| probe.wait_for_more(20));
    figures.note("split and healed: gap", probes.into_iter().map(Probe::stop));
    figures.note("split and healed: two MACs", [macs.stop()]);
    group.wait_until_each_vip_is_at_one_box();
    group.assert_all_answer();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_that_dies_moves_nothing_and_without_any_agent_the_vips_still_move() {
    let mut group = Group::new(Plane::Tc, &[]);
    group.serve(&[HTTP, ECHO, UDP], "llb.dev/mode: nat");
    group.assert_all_answer();
    let before = group.vips_at(0);
    group.members[0].kill_agent();
    assert_nothing_moves(&group);
    group.assert_all_answer();
    group.members[0].start_agent();
    assert_nothing_moves(&group);
    assert_eq!(group.vips_at(0), before);

    // keepalived and `llb-agent share` need no agent, and the programs of the packet plane go on.
    group.members.iter_mut().for_each(boxes::Member::kill_agent);
    let probe = Probe::start(&group.client, before[0]);
    group.members[0].stop_keepalived();
    wait_until(LIMIT, "all VIPs to be at box-b", || Ok((group.vips_at(1) == group.vips()).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    wait_until(LIMIT, "box-a to have none", || Ok(group.vips_at(0).is_empty().then_some(()))).unwrap();
    probe.wait_for_more(20);
    println!("keepalived stopped, no agent: {:?}", probe.stop());
    group.assert_all_answer();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn in_mode_dsr_connections_live_on_when_their_box_is_cut_off() {
    let mut group = Group::new(Plane::Tc, &[]);
    let vips = group.vips();
    let _servers = serve_dsr(&group, &vips);
    group.serve(&[ECHO, HTTP], "llb.dev/mode: dsr");
    group.assert_all_answer();
    let moving = group.vips_at(0);
    let open = moving.iter().flat_map(|vip| std::iter::repeat_n(*vip, 10));
    let mut open: Vec<TcpStream> = open.map(|vip| connect_echo(&group.client, vip)).collect();
    wait_for_clients_at(&group, 1);
    group.cut_off(0);
    for stream in &mut open {
        wait_until(LIMIT, "an echo of an old connection", || echo_on(stream, b"still there").map(Some))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn services_that_come_and_go_leave_keepalived_alone() {
    const SERVICES: u32 = 100;
    let mut group =
        Group::new(Plane::Userspace, &["--pool", "far=198.18.0.0/22+routed=true", "--at-stop", "remove"]);
    group.serve(&[HTTP], "llb.dev/mode: nat");
    let vip = |number: u32| IpAddr::from((0xc612_0001 + number).to_be_bytes());
    let yaml = |numbers: std::ops::Range<u32>| -> String {
        let one = |number| llb_tests::manifests::service(&format!("s{number}"), &[vip(number)], &[HTTP]);
        numbers.map(|number| one(number) + "---\n").collect()
    };
    let count = |group: &Group| -> usize {
        let of = |member: &boxes::Member| {
            let addresses = member.host.addresses().unwrap();
            addresses.iter().filter(|address| address.starts_with("198.18.")).count()
        };
        group.members.iter().map(of).sum()
    };
    for last in [SERVICES, SERVICES / 2, SERVICES] {
        group.manifests.write("many.yaml", &yaml(0..last)).unwrap();
        let what = format!("{last} VIPs, each at one box");
        wait_until(LIMIT, &what, || Ok((count(&group) == last as usize).then_some(())))
            .unwrap_or_else(|error| panic!("{error:#}: {}\n{}", count(&group), group.logs()));
    }
    assert!(group.members.iter().all(|member| !member.has_reloaded()), "{}", group.logs());
    add_a_member(&mut group);

    // An agent that takes everything away when it ends gives its shares away first.
    group.members[0].agent.as_mut().unwrap().terminate().unwrap();
    wait_until(LIMIT, "all VIPs to be at box-b", || Ok((group.vips_at(1) == group.vips()).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    wait_until(LIMIT, "box-a to have none", || Ok(group.vips_at(0).is_empty().then_some(()))).unwrap();
    group.assert_all_answer();
    assert!(group.members[0].agent.as_mut().unwrap().wait_exit().unwrap().success());
    assert_eq!(count(&group), SERVICES as usize);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keepalived_accepts_the_configuration_of_the_largest_group() {
    let group = Group::new(Plane::Userspace, &["--peer", "c", "--peer", "d", "--peer", "e", "--peer", "f"]);
    let mut group = group;
    group.members[0].start_agent();
    let file = group.lab.directory().join("box-a.state/vrrp.conf");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("vrrp_instance").count(), 16, "{text}");
    let mut command: Command = group.members[0].host.command("keepalived");
    let output = command.arg("--config-test").arg(format!("--use-file={}", file.display())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
    assert!(!said.contains("nsafe") && !said.contains("WARNING"), "{said}");
}

/// A third box is named at both, and their agents are started again. Then keepalived is told, and nothing is lost.
fn add_a_member(group: &mut Group) {
    for member in &mut group.members {
        member.add_peer("box-c");
        member.restart_agent();
    }
    for member in &group.members {
        wait_until(LIMIT, "keepalived to be told", || Ok(member.has_reloaded().then_some(())))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
    }
    group.wait_until_each_vip_is_at_one_box();
    group.assert_all_answer();
    let text = members(group, 0);
    assert!(text.contains("box-c"), "{text}");
}

/// Each VIP is at the box where it was, for a while, and at no other.
fn assert_nothing_moves(group: &Group) {
    let before = [group.vips_at(0), group.vips_at(1)];
    holds_throughout(A_WHILE, "the same owners", || {
        let now = [group.vips_at(0), group.vips_at(1)];
        if now == before { Ok(()) } else { anyhow::bail!("{before:?} -> {now:?}") }
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", group.logs()));
}

fn connect_echo(client: &Host, vip: IpAddr) -> TcpStream {
    let address = SocketAddr::new(vip, ECHO.port);
    let mut stream = wait_until(LIMIT, "a connection", || connect(client, address).map(Some)).unwrap();
    echo_on(&mut stream, b"hello").unwrap();
    stream
}

/// The answer to the next bytes is a reset, not silence.
fn assert_is_reset(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let sent = stream.write_all(b"more");
    let error = sent.and_then(|()| stream.read_exact(&mut [0])).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

fn members(group: &Group, number: usize) -> String {
    let host = &group.members[number].host;
    let binary = llb_tests::agent::binary().unwrap();
    host.output(&[binary.to_str().unwrap(), "members"]).unwrap()
}

/// In mode `dsr`, waits until a box gives clients to the nodes.
fn wait_for_clients_at(group: &Group, number: usize) {
    wait_for_clients(group.members[number].agent.as_ref().unwrap()).unwrap();
}

/// Each node has the VIPs on `lo`, which nobody announces, as kube-proxy makes it.
fn serve_dsr(group: &Group, vips: &[IpAddr]) -> Vec<Server> {
    let all = NODES.iter().flat_map(|node| vips.iter().map(move |vip| (*node, *vip)));
    let servers = all.flat_map(|(node, vip)| {
        let host = group.lab.host(node);
        crate::scenarios::packets::dsr::take(host, vip);
        [
            Server::echo(host, SocketAddr::new(vip, ECHO.port)).unwrap(),
            Server::http(host, SocketAddr::new(vip, HTTP.port), node).unwrap(),
            Server::udp(host, SocketAddr::new(vip, UDP.port), node).unwrap(),
        ]
    });
    servers.collect()
}
