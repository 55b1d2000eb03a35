// SPDX-License-Identifier: Apache-2.0
//! An agent that can't start says why, and what to do.

use llb_tests::{Agent, Lab, wait_until};

use crate::setup::LIMIT;

/// Root's user, and none of root's rights.
const WITHOUT_RIGHTS: [&str; 4] =
    ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"];

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_it_cannot_do_without_is_named() {
    let lab = Lab::new().unwrap();
    let program = llb_tests::agent::binary().unwrap();
    let program = program.to_str().unwrap();
    let state_dir = lab.directory().join("state");
    let folder = lab.directory().to_str().unwrap();
    let nowhere = format!("{folder}/nowhere");
    for (prefix, arguments, expected) in [
        (
            &[][..],
            ["--linkdevice", "eth9", "--manifests", folder],
            "--linkdevice eth9: there is no such link; this machine has: ",
        ),
        (
            &WITHOUT_RIGHTS,
            ["--linkdevice", "eth0", "--manifests", folder],
            "missing rights: CAP_NET_ADMIN (to change addresses), CAP_NET_BIND_SERVICE",
        ),
        (&[], ["--linkdevice", "eth0", "--manifests", &nowhere], "cannot read --manifests"),
        (&[], ["--linkdevice", "eth0", "--kubeconfig", &nowhere], "cannot read the kubeconfig"),
        (&[], ["--linkdevice", "eth0", "--pool", "192.0.2.0/33"], "--pool 192.0.2.0/33: "),
        (&[], ["--linkdevice", "eth0", "--pool", "127.0.0.0/8"], "a loopback address, which cannot be a VIP"),
    ] {
        let mut words = prefix.iter().copied().chain([program]);
        let output = lab
            .balancer()
            .command(words.next().unwrap())
            .args(words)
            .args(arguments)
            .arg("--state-dir")
            .arg(&state_dir)
            .arg("--userspace")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // As for other wrong flags: plain text, also in a pipe, and status 2.
        let is_wrong_flag = arguments.contains(&"--pool");
        assert_eq!(output.status.code(), Some(if is_wrong_flag { 2 } else { 1 }), "{arguments:?}: {said}");
        assert_eq!(is_wrong_flag, said.starts_with("error: "), "{said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_right_that_sockmap_lacks_is_named_and_the_relay_serves() {
    let lab = Lab::new().unwrap();
    let program = llb_tests::agent::binary().unwrap();
    let mut command = lab.balancer().command("setpriv");
    command
        .args(["--bounding-set=-perfmon,-sys_admin", "--inh-caps=-perfmon,-sys_admin"])
        .arg(program)
        .args(["--linkdevice", "eth0", "--datapath", "sockmap", "--manifests"])
        .arg(lab.directory())
        .arg("--state-dir")
        .arg(lab.directory().join("state"));
    let agent = lab.balancer().spawn(command, "agent").unwrap();
    wait_until(LIMIT, "the agent to start without it", || {
        let log = agent.log();
        anyhow::ensure!(log.contains("no sockmap; bytes are moved in user space"), "{log}");
        anyhow::ensure!(
            log.contains("missing rights: CAP_PERFMON (") && log.contains("admin endpoint"),
            "{log}"
        );
        Ok(Some(()))
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_second_agent_that_would_leave_a_link_alone_is_refused() {
    let lab = Lab::new().unwrap();
    let manifests = lab.directory().to_str().unwrap();
    let both = ["--userspace", "--manifests", manifests, "--linkdevice", "lo"];
    let first = Agent::start(lab.balancer(), &both).unwrap();
    let mut second = Agent::spawn(lab.balancer(), &both[..3]).unwrap();
    assert_eq!(second.wait_exit().unwrap().code(), Some(1));
    assert!(second.log().contains("it serves --linkdevice lo, which the new one lacks"), "{}", second.log());
    first.state().unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_state_folder_that_is_locked_by_somebody_silent_is_refused() {
    let lab = Lab::new().unwrap();
    let folder = lab.directory().join("balancer.state");
    std::fs::create_dir(&folder).unwrap();
    let lock = std::fs::File::create(folder.join("lock")).unwrap();
    lock.try_lock().unwrap();
    let manifests = lab.directory().to_str().unwrap();
    let mut agent = Agent::spawn(lab.balancer(), &["--userspace", "--manifests", manifests]).unwrap();
    assert_eq!(agent.wait_exit().unwrap().code(), Some(1));
    assert!(agent.log().contains("another llb-agent uses"), "{}", agent.log());
}
