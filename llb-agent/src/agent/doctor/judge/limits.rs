// SPDX-License-Identifier: Apache-2.0
//! Limits of the process, its folder, and the loopback link. Pure.

use super::super::check::CheckId;
use super::super::facts::{Machine, StateDir};
use super::super::finding::Finding;
use crate::agent::preconditions::needed_descriptors;
use crate::config::{Config, Datapath};
use crate::kernel::{Cap, Release};

/// From this kernel on, eBPF maps count as memory of the cgroup, not against RLIMIT_MEMLOCK.
const MAPS_IN_CGROUP_SINCE: Release = Release { major: 5, minor: 11 };
/// With fewer bytes, not even the smallest maps can be made.
const MAPS_BYTES: u64 = 128 << 20;

pub(super) fn judge(config: &Config, machine: &Machine) -> Vec<Finding> {
    let memlock = (config.datapath != Datapath::Userspace).then(|| memlock(machine));
    let others = [open_files(config, machine), state_dir(config, machine), loopback(machine)];
    memlock.into_iter().chain(others).collect()
}

fn memlock(machine: &Machine) -> Finding {
    let is_old = Release::parse(&machine.kernel.release).is_some_and(|number| number < MAPS_IN_CGROUP_SINCE);
    match machine.memlock {
        Some(bytes) if is_old && bytes < MAPS_BYTES => Finding::warning(
            CheckId::Memlock,
            format!("the process may lock {bytes} bytes, and the maps of llb may need {MAPS_BYTES}"),
            "raise it: ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        ),
        _ if is_old => Finding::ok(CheckId::Memlock, "the process may lock enough memory for the maps"),
        _ => Finding::ok(CheckId::Memlock, "this kernel does not count maps for it"),
    }
}

fn open_files(config: &Config, machine: &Machine) -> Finding {
    let needed = needed_descriptors(&config.relay);
    match machine.open_files {
        Some(most) if most < needed => Finding::warning(
            CheckId::OpenFiles,
            format!("{most} files at most, and --max-connections and --max-udp-sessions need {needed}"),
            "raise it (ulimit -Hn, LimitNOFILE= in the unit), or lower the two flags",
        ),
        Some(most) => {
            Finding::ok(CheckId::OpenFiles, format!("{most} files; the relay's limits need {needed}"))
        }
        None => Finding::ok(CheckId::OpenFiles, "there is no limit"),
    }
}

fn state_dir(config: &Config, machine: &Machine) -> Finding {
    let folder = config.state_dir.display();
    match &machine.state_dir {
        StateDir::Usable => Finding::ok(CheckId::StateDir, format!("{folder} can be written")),
        StateDir::Absent => Finding::ok(CheckId::StateDir, format!("llb will make {folder}")),
        StateDir::Unusable(error) => Finding::error(
            CheckId::StateDir,
            format!("{folder} can't be used: {error}"),
            "run llb-agent as the user that owns it, or name another folder with --state-dir",
        ),
    }
}

fn loopback(machine: &Machine) -> Finding {
    if machine.is_loopback_up {
        return Finding::ok(CheckId::Loopback, "lo is up");
    }
    let way = if machine.missing.contains(&Cap::NetAdmin) { "as root: " } else { "" };
    Finding::error(CheckId::Loopback, "lo is down", format!("{way}ip link set lo up"))
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::super::super::sample::{config, machine};
    use super::*;

    fn found(flags: &[&str], change: impl Fn(&mut Machine)) -> Vec<(CheckId, Level)> {
        let mut machine = machine();
        change(&mut machine);
        let findings = judge(&config(flags), &machine).into_iter();
        findings.filter(|one| one.level != Level::Ok).map(|one| (one.check, one.level)).collect()
    }

    #[test]
    fn locked_memory_matters_to_old_kernels_that_use_ebpf() {
        let little = |release: &'static str| {
            move |machine: &mut Machine| {
                machine.memlock = Some(65_536);
                machine.kernel.release = release.to_owned();
            }
        };
        assert_eq!(found(&[], little("5.10.0")), [(CheckId::Memlock, Level::Warning)]);
        assert_eq!(found(&["--userspace"], little("5.10.0")), []);
        assert_eq!(found(&[], little("6.1.0")), []);
    }

    #[test]
    fn few_files_are_few_connections() {
        let few = |machine: &mut Machine| machine.open_files = Some(1024);
        assert_eq!(found(&[], few), [(CheckId::OpenFiles, Level::Warning)]);
        let fewer = ["--max-connections", "100", "--max-udp-sessions", "100"];
        let enough = |machine: &mut Machine| machine.open_files = Some(5000);
        assert_eq!(found(&fewer, enough), []);
        assert_eq!(found(&[], |machine| machine.open_files = None), []);
    }

    #[test]
    fn the_folder_and_loopback_must_be_there() {
        let unusable = |machine: &mut Machine| machine.state_dir = StateDir::Unusable("denied".to_owned());
        assert_eq!(found(&[], unusable), [(CheckId::StateDir, Level::Error)]);
        assert_eq!(found(&[], |machine| machine.state_dir = StateDir::Absent), []);
        assert_eq!(found(&[], |machine| machine.is_loopback_up = false), [(CheckId::Loopback, Level::Error)]);
    }
}
