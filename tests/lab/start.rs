// SPDX-License-Identifier: Apache-2.0
//! An agent that cannot start says why, and what to do about it.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use llb_tests::{Agent, Lab, wait_until};

use crate::setup::LIMIT;

/// The root user without root's capabilities.
const WITHOUT_RIGHTS: [&str; 4] =
    ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"];

/// CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_RESOURCE as a mask.
const KEPT_IN_USER_SPACE: u64 = 1 << 2 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 24;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_that_cannot_start_names_what_is_missing() {
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
        (&[], ["--linkdevice", "eth0", "--pool", "192.0.2.0/33"], "'192.0.2.0/33' for '--pool <POOL>': "),
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
fn a_missing_right_for_sockmap_is_named_and_the_relay_serves() {
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
fn a_state_folder_locked_by_another_program_is_refused() {
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

/// An exec plugin of a kubeconfig is a program that the agent starts.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_exec_plugin_runs_with_no_more_rights_than_the_agent() {
    let lab = Lab::new().unwrap();
    let report = lab.directory().join("plugin");
    let script = format!(
        "exec >{}.new 2>&1; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; \
         unshare --user true; mount -t tmpfs none /mnt; echo $((6 * 7)) | cat; mv {0}.new {0}",
        report.display()
    );
    let exec = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "interactiveMode": "Never",
        "command": "bash",
        "args": ["-c", format!("({script}) >&2; echo '{}'", serde_json::json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": "secret"},
        }))],
    });
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "lab", "user": {"exec": exec}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    let file = lab.directory().join("kubeconfig");
    // Not readable for root without CAP_DAC_READ_SEARCH.
    std::fs::write(&file, kubeconfig.to_string()).unwrap();
    std::os::unix::fs::chown(&file, Some(1234), None).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let agent =
        Agent::spawn(lab.balancer(), &["--userspace", "--kubeconfig", file.to_str().unwrap()]).unwrap();
    let said = wait_until(LIMIT, "the plugin to report", || Ok(std::fs::read_to_string(&report).ok()))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    for expected in ["NoNewPrivs:\t1", "Seccomp:\t2", "42\n"] {
        assert!(said.contains(expected), "{expected} is missing: {said}");
    }
    assert_eq!(
        said.matches("not permitted").count() + said.matches("permission denied").count(),
        2,
        "{said}"
    );
    assert!(!agent.log().contains("auth exec"), "{}", agent.log());
}

/// As in a container that has only what llb asks for.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_that_cannot_narrow_the_bounding_set_gives_up_the_rest_of_its_rights() {
    let lab = Lab::new().unwrap();
    let program = llb_tests::agent::binary().unwrap();
    let mut command = lab.balancer().command("setpriv");
    command
        .args(["--bounding-set=-setpcap", "--inh-caps=-all"])
        .arg(program)
        .args(["--linkdevice", "eth0", "--userspace", "--manifests"])
        .arg(lab.directory())
        .arg("--state-dir")
        .arg(lab.directory().join("state"));
    let agent = lab.balancer().spawn(command, "agent").unwrap();
    wait_until(LIMIT, "the agent to start", || Ok(agent.log().contains("admin endpoint").then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    for expected in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(expected), "{expected} is missing: {status}");
    }
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(capabilities(&status, set) & !KEPT_IN_USER_SPACE, 0, "{status}");
    }
    assert!(!agent.log().contains("cannot give up"), "{}", agent.log());
}

/// The mask of a set in the format of `/proc/self/status`.
fn capabilities(status: &str, set: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':')).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_other_user_can_take_over() {
    const NOBODY: u32 = 65_534;
    let lab = Lab::new().unwrap();
    let host = lab.balancer();
    let folder = host.directory().to_str().unwrap().to_owned();
    let mut agent = Agent::start(host, &["--userspace", "--manifests", &folder]).unwrap();
    // As if somebody had opened the folder to everybody.
    let state_dir = host.directory().join(format!("{}.state", host.name()));
    let socket = state_dir.join("handover.sock");
    for path in [host.directory(), &state_dir, &socket] {
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let connect = || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY))?;
        let mut answer = Vec::new();
        UnixStream::connect(&socket)?.read_to_end(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    assert!(host.run_inside(connect).unwrap().unwrap().is_empty());
    wait_until(LIMIT, "the reason in the log", || {
        Ok(agent.log().contains("the new agent runs as another user").then_some(()))
    })
    .unwrap();
    assert_eq!(agent.process().exit_status().unwrap(), None);
}
