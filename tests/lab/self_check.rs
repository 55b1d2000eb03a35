// SPDX-License-Identifier: Apache-2.0
//! Tests of the lab itself, without an agent: its hosts reach each other and nothing else, and it leaves
//! nothing behind.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use llb_tests::environment::{VICTIM_REPORT, victim_report};
use llb_tests::{Host, Lab, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn hosts_reach_each_other_and_nothing_else() {
    let lab = Lab::new().unwrap();
    let client = lab.client();
    for name in ["node-1", "node-2", "balancer"] {
        reach(client, lab.host(name).at(7)).unwrap();
        reach(client, lab.host(name).at_v6(7)).unwrap();
    }
    // No network has 203.0.113.1. Without a route the kernel refuses at once.
    let refused = reach(client, "203.0.113.1:7".parse().unwrap()).unwrap_err();
    assert_eq!(refused.downcast::<io::Error>().unwrap().kind(), io::ErrorKind::NetworkUnreachable);
    assert!(client.output(&["ip", "route", "show", "default"]).unwrap().is_empty());
    assert!(client.output(&["ip", "-6", "route", "show", "default"]).unwrap().is_empty());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn labs_with_the_same_addresses_do_not_see_each_other() {
    let (mut one, two) = (Lab::empty().unwrap(), Lab::new().unwrap());
    let lonely = one.add_host("lonely").unwrap();
    let there = two.client().at(7);
    assert!(reach(&lonely, there).is_err());
    reach(two.balancer(), there).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_unplugged_host_is_silent_until_it_is_plugged_in() {
    let lab = Lab::new().unwrap();
    let node = lab.host("node-1");
    let reach_both = || reach(lab.client(), node.at(7)).and_then(|()| reach(lab.client(), node.at_v6(7)));
    reach_both().unwrap();
    node.unplug().unwrap();
    assert!(reach(lab.client(), node.at(7)).is_err());
    assert!(reach(lab.client(), node.at_v6(7)).is_err());
    node.plug_in().unwrap();
    wait_until(LIMIT, "an answer from node-1", || reach_both().map(Some)).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_dropped_lab_leaves_nothing_even_after_a_panic() {
    let trace = std::sync::Mutex::new(None);
    let panic = std::panic::catch_unwind(|| {
        let lab = Lab::new().unwrap();
        let client = lab.client();
        let mut sleep = client.command("sleep");
        sleep.arg("60");
        let mut process = client.spawn(sleep, "sleep").unwrap();
        assert_eq!(process.exit_status().unwrap(), None);
        *trace.lock().unwrap() = Some((lab.name().to_owned(), lab.directory().to_owned(), process.pid()));
        assert!(client.namespace().exists());
        // Forgotten, as a faulty test might do it: the lab must kill the process.
        std::mem::forget(process);
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(panic.is_err());
    let (name, directory, pid) = trace.into_inner().unwrap().unwrap();
    assert_eq!(namespaces_of(&name), Vec::<String>::new());
    assert!(!directory.exists());
    // This process never waits for its forgotten child, which stays a zombie.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

/// Not a test: the test below starts it as a process of its own and kills it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_victim_that_waits_for_its_end() {
    let Some(report) = victim_report() else { return };
    let lab = Lab::empty().map(|mut lab| lab.add_host("lonely").map(|host| (lab, host)));
    let (lab, host) = lab.unwrap().unwrap();
    let mut sleep = host.command("sleep");
    sleep.arg("60");
    // The starting thread ends at once. The child must live until the whole process ends.
    let starter = std::thread::spawn(move || host.spawn(sleep, "sleep").unwrap());
    let mut sleep = starter.join().unwrap();
    let draft = lab.directory().join("report");
    std::fs::write(&draft, format!("{} {}", lab.name(), sleep.pid())).unwrap();
    std::fs::rename(&draft, report).unwrap();
    sleep.wait_exit(Duration::from_secs(60)).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn when_a_labs_owner_is_killed_its_processes_die_and_the_next_lab_cleans_up() {
    let mut next = Lab::empty().unwrap();
    let report = next.directory().join("victim");
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--include-ignored", "--exact", "self_check::a_victim_that_waits_for_its_end"])
        .env(VICTIM_REPORT, &report)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (name, pid) = wait_until(LIMIT, "the victim's report", || {
        let text = std::fs::read_to_string(&report)?;
        Ok(text.split_once(' ').map(|(name, pid)| (name.to_owned(), pid.to_owned())))
    })
    .unwrap();
    let process = Path::new("/proc").join(pid);
    assert!(process.exists());
    assert!(!namespaces_of(&name).is_empty());

    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until(LIMIT, "the end of its child", || Ok((!process.exists()).then_some(()))).unwrap();
    next = Lab::empty().unwrap();
    let directory = next.directory().with_file_name(&name);
    // The lab of a test that runs beside this one may be cleaning up the same.
    wait_until(LIMIT, "nothing to be left", || {
        Ok((namespaces_of(&name).is_empty() && !directory.exists()).then_some(()))
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_links_of_the_root_namespace_are_not_touched() {
    let links = || {
        let output = Command::new("ip").args(["-o", "link"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let before = links();
    let lab = Lab::new().unwrap();
    assert_eq!(links(), before);
    drop(lab);
    assert_eq!(links(), before);
}

fn namespaces_of(lab: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new("/run/netns")) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&format!("{lab}-")))
        .collect()
}

/// Fails if `to` does not answer. A closed port answers too, by refusing.
fn reach(from: &Host, to: SocketAddr) -> Result<()> {
    match from.run_inside(|| TcpStream::connect_timeout(&to, LIMIT))? {
        Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Err(error.into()),
        _ => Ok(()),
    }
}
