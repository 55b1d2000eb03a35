// SPDX-License-Identifier: Apache-2.0
//! Named network namespaces: creates them, runs work and `ip` commands in them, removes them, and sweeps those
//! whose owner is dead. The lab decides what is in them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::wait::wait_for;

/// The folder in which `ip netns` keeps its namespaces.
const NETNS_DIR: &str = "/run/netns";

/// An agent in a lab pins its maps here, in a folder named after its namespace.
const BPF_DIR: &str = "/sys/fs/bpf";

/// Every name begins with this and the owner's pid: `llb-1234-0-client`.
const PREFIX: &str = "llb-";

/// A killed process ends at once, unless the kernel is stuck in it.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The namespaces and folders that this process owns.
static OWNED: Mutex<Owned> =
    Mutex::new(Owned { names: BTreeSet::new(), directories: BTreeSet::new(), closed: false });

struct Owned {
    names: BTreeSet<String>,
    directories: BTreeSet<PathBuf>,
    /// Set by [`remove_all`]: after the last clean-up nothing new may be created.
    closed: bool,
}

fn owned() -> MutexGuard<'static, Owned> {
    // If another test panicked, the set of names is still whole.
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `llb-<pid>-<number>`, with which all names of one lab begin.
pub(super) fn lab_name(number: usize) -> String {
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// The file that represents the namespace.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// The folder in which an agent in the namespace pins its eBPF objects. It is removed with the namespace.
pub(super) fn bpf_directory(name: &str) -> PathBuf {
    Path::new(BPF_DIR).join(name)
}

/// Creates a namespace, which this process owns until [`remove`].
pub(super) fn create(name: &str) -> Result<()> {
    let mut owned = owned();
    ensure!(!owned.closed, "this process is cleaning up");
    ip(None, &format!("netns add {name}"))?;
    owned.names.insert(name.to_owned());
    Ok(())
}

/// Kills all processes in the namespace and removes it.
pub(super) fn remove(name: &str) {
    let mut owned = owned();
    if owned.names.remove(name) {
        remove_unconditionally(name);
    }
}

/// Creates the folder of a lab, which this process owns until [`remove_directory`] or [`remove_all`].
pub(super) fn create_directory(lab_name: &str) -> Result<PathBuf> {
    let mut owned = owned();
    ensure!(!owned.closed, "this process is cleaning up");
    let directory = std::env::temp_dir().join(lab_name);
    fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    owned.directories.insert(directory.clone());
    Ok(directory)
}

/// Removes the folder of a lab with its content.
pub(super) fn remove_directory(directory: &Path) {
    if owned().directories.remove(directory) {
        remove_tree(directory);
    }
}

/// Removes everything that this process owns, and makes it refuse to create more. It is for the thread of a
/// signal handler, while the owner of a lab may be in the middle of its work.
pub fn remove_all() {
    let mut owned = owned();
    owned.closed = true;
    for name in std::mem::take(&mut owned.names) {
        remove_unconditionally(&name);
    }
    for directory in std::mem::take(&mut owned.directories) {
        remove_tree(&directory);
    }
}

/// Removes what is left of processes that were killed before they could clean up.
pub(super) fn sweep_dead() {
    let owned = owned();
    for name in names_in(Path::new(NETNS_DIR)) {
        if owner_is_gone(&name) && !owned.names.contains(&name) {
            remove_unconditionally(&name);
        }
    }
    for name in names_in(Path::new(BPF_DIR)) {
        if owner_is_gone(&name) && !owned.names.contains(&name) {
            remove_tree(&bpf_directory(&name));
        }
    }
    let temporary = std::env::temp_dir();
    for name in names_in(&temporary) {
        let directory = temporary.join(&name);
        if owner_is_gone(&name) && !owned.directories.contains(&directory) {
            remove_tree(&directory);
        }
    }
}

/// Moves the calling thread into the namespace for good. The thread must end with its work there.
pub(super) fn enter(namespace: &Path) -> Result<()> {
    let file = File::open(namespace)
        .with_context(|| format!("cannot open the namespace {}", namespace.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter the namespace {}", namespace.display()))
}

/// Runs `work` on a new thread of this process, inside the namespace.
pub(super) fn run_inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace)?;
            Ok(work())
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A command that runs `program` in the namespace, and dies with the thread that starts it.
pub(super) fn command(namespace: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.display()))
        .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
        .arg(program);
    command
}

/// Runs the lines of `commands` by one `ip -batch`, in a namespace or in the root namespace.
pub(super) fn ip(namespace: Option<&str>, commands: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip; it is part of the package iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip in {}: {}\n{commands}",
            namespace.unwrap_or("the root namespace"),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn remove_unconditionally(name: &str) {
    // All processes in it were started for this lab; some may end in between. Once they have ended, nothing
    // writes into the lab's folder any more.
    let ended = wait_for(KILL_LIMIT, &format!("the end of the processes in {name}"), || {
        let processes = processes_in(name);
        for &pid in &processes {
            let _ = kill_process(pid, Signal::KILL);
        }
        processes.is_empty()
    });
    if let Err(error) = ended {
        eprintln!("{error:#}");
    }
    if let Err(error) = ip(None, &format!("netns delete {name}")) {
        eprintln!("cannot remove the namespace {name}: {error:#}");
    }
    let pinned = bpf_directory(name);
    if pinned.exists() {
        remove_tree(&pinned);
    }
}

/// All processes in the namespace except this one.
fn processes_in(name: &str) -> Vec<Pid> {
    let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim().parse::<i32>().ok())
        .filter_map(Pid::from_raw)
        .filter(|&pid| pid != rustix::process::getpid())
        .collect()
}

fn remove_tree(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        eprintln!("cannot remove {}: {error}", directory.display());
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether `name` belongs to a lab whose process has ended. With the pid of this process it may also belong to
/// a dead process that had the same pid, which is usual in containers: the caller knows what it owns.
fn owner_is_gone(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next())
        .and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists())
}

/// Ctrl-C and `kill` remove all namespaces too. (Child processes die with this process.)
///
/// # Errors
/// The signals can't be caught.
pub fn clean_up_on_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            remove_all();
            std::process::exit(130);
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_whose_owner_is_dead_are_stale() {
        // Above the highest pid of Linux (4194304).
        assert!(owner_is_gone("llb-4194305-0-client"));
        assert!(!owner_is_gone("llb-1-0-client"));
        assert!(!owner_is_gone("llb-client"));
        assert!(!owner_is_gone("4194305-0-client"));
    }
}
