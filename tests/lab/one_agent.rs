// SPDX-License-Identifier: Apache-2.0
//! Two agents on one link, with all combinations of folders and planes: one of
//! them serves, and the other one says why it does not. A program that removes a
//! VIP again and again.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use llb_tests::wait_until;
use rustix::process::Signal;

use crate::plane::Plane;
use crate::setup::LIMIT;
use crate::stage::{FIRST, Flags, Stage, assert_short};

/// Planes of the first and the second agent, and the second one's state and BPF folders. The first one has the
/// folders "1". All combinations of the relay and TC are in [`every_second_agent`].
const OTHER_PLANES: [(Plane, Plane, &str, &str); 12] = [
    (Plane::Userspace, Plane::XdpGeneric, "1", "2"),
    (Plane::Userspace, Plane::Sockmap, "2", "1"),
    (Plane::Tc, Plane::XdpGeneric, "1", "1"),
    (Plane::Tc, Plane::Sockmap, "1", "1"),
    (Plane::XdpGeneric, Plane::Userspace, "2", "2"),
    (Plane::XdpGeneric, Plane::Tc, "1", "2"),
    (Plane::XdpGeneric, Plane::XdpGeneric, "1", "1"),
    (Plane::XdpGeneric, Plane::Sockmap, "2", "1"),
    (Plane::Sockmap, Plane::Userspace, "1", "2"),
    (Plane::Sockmap, Plane::Tc, "1", "1"),
    (Plane::Sockmap, Plane::XdpGeneric, "2", "2"),
    (Plane::Sockmap, Plane::Sockmap, "1", "2"),
];

/// Every combination of folders and of the second agent's plane beside a first
/// agent with plane `first`.
fn every_second_agent(first: Plane) {
    let first = Flags { plane: first, ..FIRST };
    for plane in [Plane::Userspace, Plane::Tc] {
        for state_dir in ["1", "2"] {
            for bpf_dir in ["1", "2"] {
                // With the same state folder it is a successor, so it serves the same Services.
                let has_manifests = state_dir == first.state_dir;
                second_agent(first, Flags { plane, state_dir, bpf_dir, has_manifests, ..first });
            }
        }
    }
}

fn second_agent(first: Flags, second: Flags) {
    println!("{first:?} beside {second:?}");
    let stage = Stage::for_planes(&[first.plane, second.plane]);
    let mut running = stage.serve("first", first);
    let mut new = stage.start("second", second);
    let is_packets = |flags: Flags| !matches!(flags.plane, Plane::Userspace | Plane::Sockmap);
    if first.state_dir != second.state_dir {
        let holder = format!("another llb-agent (pid {}, --state-dir", running.pid());
        stage.assert_refused(
            &mut running,
            &mut new,
            &[&holder, "has link eth0", "stop it, or start this one"],
        );
    } else if is_packets(first) && !is_packets(second) {
        stage.assert_refused(&mut running, &mut new, &["refuses to hand over", "no packet plane"]);
    } else if is_packets(first) && first.bpf_dir != second.bpf_dir {
        stage.assert_refused(&mut running, &mut new, &["refuses to hand over", "give both the same"]);
    } else {
        let status = running.wait_exit(LIMIT).unwrap();
        assert!(status.success(), "{}", running.log());
        stage.wait_until_served(&new);
        assert!(stage.is_vip_there());
        assert_short(&running);
        assert_short(&new);
        running = new;
    }
    running.signal(Signal::TERM).unwrap();
    assert!(running.wait_exit(LIMIT).unwrap().success(), "{}", running.log());
    assert!(!stage.is_vip_there());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn beside_an_agent_that_relays_a_second_one_takes_over_or_ends() {
    every_second_agent(Plane::Userspace);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn beside_an_agent_that_forwards_packets_a_second_one_takes_over_or_ends() {
    every_second_agent(Plane::Tc);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn on_every_other_plane_a_second_agent_takes_over_or_ends_too() {
    for (first, plane, state_dir, bpf_dir) in OTHER_PLANES {
        let first = Flags { plane: first, ..FIRST };
        let has_manifests = state_dir == first.state_dir;
        let second = Flags { plane, state_dir, bpf_dir, address_tag: "file", has_manifests, ..first };
        second_agent(first, second);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_lock_of_a_link_holds_under_all_names_and_passes_to_the_successor() {
    let stage = Stage::new();
    stage.lab.balancer().ip("link property add dev eth0 altname wan0\n").unwrap();
    let mut first = stage.serve("first", FIRST);
    let other = Flags { state_dir: "2", bpf_dir: "2", has_manifests: false, ..FIRST };
    let mut second = stage.start("by-alternative-name", Flags { link: "wan0", ..other });
    let holder = format!("(pid {},", first.pid());
    stage.assert_refused(&mut first, &mut second, &[&holder, "has link wan0"]);

    let mut successor = stage.start("successor", FIRST);
    assert!(first.wait_exit(LIMIT).unwrap().success(), "{}", first.log());
    stage.wait_until_served(&successor);
    let holder = format!("(pid {},", successor.pid());
    let mut third = stage.start("third", other);
    stage.assert_refused(&mut successor, &mut third, &[&holder, "has link eth0"]);

    // The lock ends with its process, whatever ends that.
    successor.kill9().unwrap();
    stage.serve("heir", Flags { state_dir: "2", bpf_dir: "2", ..FIRST });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_that_is_made_again_gets_nothing_before_its_lock_is_free() {
    let stage = Stage::new();
    let agent = stage.serve("agent", Flags { plane: Plane::Tc, ..FIRST });
    let host = stage.lab.balancer();
    // Every number that the new link can have.
    let take = |index: u32| {
        let name = SocketAddr::from_abstract_name(format!("llb-agent/{index}"));
        name.and_then(|name| UnixListener::bind_addr(&name)).ok()
    };
    let others: Vec<UnixListener> = host.run_inside(|| (1..300).filter_map(take).collect()).unwrap();
    host.replace_link().unwrap();
    wait_until(LIMIT, "the problem", || {
        let state = host.output(&["curl", "-sf", "http://127.0.0.1:9660/state"])?;
        let problem = "a process that does not answer (pid";
        Ok((state.contains("LinkBusy") && state.contains(problem)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    assert!(!stage.is_vip_there());
    drop(others);
    let is_served = || Ok(agent.log().contains("its packets are forwarded again").then_some(()));
    wait_until(LIMIT, "packets to be forwarded", is_served).unwrap();
    stage.wait_until_served(&agent);
    assert!(stage.is_vip_there());
    let log = agent.log();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text}: {log}"));
    let free = place("no other agent has the link any more");
    assert!(place("nothing is changed on the link") < free, "{log}");
    assert!(free < place("its packets are forwarded again"), "{log}");
    assert_short(&agent);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_vip_that_is_removed_again_and_again_is_said_once_and_comes_back() {
    let stage = Stage::new();
    let mut agent = stage.serve("agent", FIRST);
    let host = stage.lab.balancer();
    let removals = format!("while sleep 0.02; do ip addr del {}/24 dev eth0 2>&-; done", stage.lab.vip(0));
    let mut command = host.command("sh");
    command.args(["-c", &removals]);
    let mut remover = host.spawn(command, "remover").unwrap();
    wait_until(LIMIT, "the problem", || {
        let state = host.output(&["curl", "-sf", "http://127.0.0.1:9660/state"])?;
        let problem = "something removes 192.0.2.100 on eth0 again and again";
        Ok((state.contains("ChangeUndone") && state.contains(problem)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    // By now it waits for seconds, so these take about as long as the limit of others.
    wait_until(4 * LIMIT, "the first pauses to pass", || {
        Ok((agent.log().matches("but not by llb").count() >= 7).then_some(()))
    })
    .unwrap();
    remover.kill9().unwrap();
    // The pause that has begun may be the longest one, a minute.
    wait_until(3 * LIMIT, "the VIP to be back", || Ok(stage.is_vip_there().then_some(()))).unwrap();
    stage.wait_until_served(&agent);
    assert_eq!(agent.log().matches("something undoes this again and again").count(), 1, "{}", agent.log());
    assert_short(&agent);
    assert_eq!(agent.exit_status().unwrap(), None);
}
